#pragma once
// The files beside the weights in a directory of Hugging Face's layout: its tokenizer, and what says how to
// generate.
#include <moegpt/io/huggingface_keys.hpp>
#include <moegpt/io/tokenizer_file.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// The tokenizer of a directory: tokenizer.json, or GPT-2's two files under their names of either source.
inline Tokenizer read_huggingface_tokenizer(const std::filesystem::path& directory) {
  if (std::filesystem::exists(directory / "tokenizer.json"))
    return read_tokenizer_json(directory / "tokenizer.json");
  for (const auto& [merges, vocabulary] :
       {std::pair{"merges.txt", "vocab.json"}, {"vocab.bpe", "encoder.json"}})
    if (std::filesystem::exists(directory / merges))
      return read_gpt2_tokenizer(directory / merges, directory / vocabulary);
  reject_file(directory.string(), "has no tokenizer.json, and no merges.txt with vocab.json");
}

namespace huggingface {

inline constexpr Index most_config_bytes = 1 << 20;

inline void write_text(const std::filesystem::path& path, std::string text) {
  text += '\n';
  write_file_atomically(path, [&](FileWriter& out) { out.write(text); });
}

// The token that ends a text, of tokenizers that are trained here and of GPT-2; -1: none.
inline int end_id(const Tokenizer& tokenizer) {
  const BytePairs* pairs = tokenizer.byte_pairs();
  return pairs ? pairs->special("<|endoftext|>") : -1;
}

// tokenizer.json, tokenizer_config.json, and the ids of begin and end in config.json.
inline void add_tokenizer(const std::filesystem::path& directory, const Tokenizer& tokenizer,
                          nlohmann::ordered_json& config) {
  using Json = nlohmann::ordered_json;
  const int end = end_id(tokenizer);
  const Json id = end >= 0 ? Json(end) : Json(nullptr),
             text = end >= 0 ? Json("<|endoftext|>") : Json(nullptr);
  write_tokenizer_json(directory / "tokenizer.json", tokenizer);
  write_text(directory / "tokenizer_config.json", Json{{"tokenizer_class", "PreTrainedTokenizerFast"},
                                                       {"bos_token", text},
                                                       {"eos_token", text},
                                                       {"clean_up_tokenization_spaces", false}}
                                                      .dump(2));
  config["bos_token_id"] = id, config["eos_token_id"] = id;
}

// Copies the tokenizer and the generation settings of another directory, and of its config.json the keys that
// do not change what weights compute and that `config` lacks. Other files of it are not read.
inline void add_files_of(const std::filesystem::path& base, const std::filesystem::path& directory,
                         nlohmann::ordered_json& config) {
  const std::filesystem::path path = base / "config.json";
  const nlohmann::json keys = parse_json(path.string(), read_file(path, most_config_bytes));
  if (!keys.is_object()) reject_file(path.string(), "is ", keys.type_name(), ", expected an object");
  for (const char* key : ignored_keys)
    if (keys.contains(key) && !config.contains(key) && std::string_view(key) != "torch_dtype")
      config[key] = keys[key];
  if (std::filesystem::equivalent(base, directory)) return;
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                           "added_tokens.json", "vocab.json", "merges.txt", "vocab.bpe", "encoder.json",
                           "chat_template.jinja", "generation_config.json"})
    if (std::filesystem::exists(base / name)) {
      const std::string content = read_file(base / name, detail::most_tokenizer_bytes);
      write_file_atomically(directory / name, [&](FileWriter& out) { out.write(content); });
    }
}

}  // namespace huggingface
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
