#pragma once
// Files of byte-pair tokenizers: tokenizer.json of Hugging Face's `tokenizers`, and GPT-2's vocab.bpe with
// encoder.json. Both write a byte as a printable character: those of Latin-1 that are printable stand for
// themselves, the 68 others for U+0100 and on.
#include <moegpt/io/json_document.hpp>
#include <moegpt/text/tokenizer.hpp>

#include <filesystem>
#include <unordered_map>
#include <unordered_set>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace detail {

inline constexpr Index most_tokenizer_bytes = 64 << 20;  // of a file; the largest published have about 20 MB

// The character that stands for each byte.
inline std::vector<char32_t> byte_characters() {
  const std::vector<int> ids = gpt2_byte_ids();
  std::vector<char32_t> characters(256);
  for (int b = 0; b < 256; ++b) {
    const int id = ids[static_cast<std::size_t>(b)];
    characters[static_cast<std::size_t>(b)] = static_cast<char32_t>(id < 188 ? b : 0x100 + id - 188);
  }
  return characters;
}
inline std::string in_byte_characters(std::string_view bytes) {
  static const std::vector<char32_t> characters = byte_characters();
  std::string text;
  for (const char c : bytes) utf8::append(text, characters[static_cast<unsigned char>(c)]);
  return text;
}

// Rules from a vocabulary (token to id) and merges (left and right), all in byte characters.
class ByteLevelRules {
 public:
  using Vocabulary = std::unordered_map<std::string, int>;
  ByteLevelRules(std::string name, const Vocabulary& vocabulary)
      : name_(std::move(name)), vocabulary_(vocabulary) {
    for (const char32_t c : byte_characters()) {
      std::string token;
      utf8::append(token, c);
      rules_.bytes.push_back(id_of(token, "the byte"));
    }
    used_.insert(used_.end(), rules_.bytes.begin(), rules_.bytes.end());
  }
  void add_merge(const std::string& left, const std::string& right) {
    std::string both = left;
    both += right;
    const BytePairRules::Merge merge{id_of(left, "the left part"), id_of(right, "the right part"),
                                     id_of(both, "the result")};
    rules_.merges.push_back(merge);
    used_.push_back(merge.id);
  }
  void add_special(int id, std::string text) {
    used_.push_back(id);
    rules_.special.push_back({id, std::move(text)});
  }
  BytePairRules& rules() { return rules_; }
  // Throws std::runtime_error for a token of the vocabulary that no text would have.
  Tokenizer finish() {
    std::sort(used_.begin(), used_.end());
    for (const auto& [token, id] : vocabulary_)
      if (!std::binary_search(used_.begin(), used_.end(), id))
        reject_file(name_, "the token ", shown(token), " (id ", id,
                    ") is neither a byte nor the result of a merge nor an added token");
    try {
      return Tokenizer::byte_pairs(std::move(rules_));
    } catch (const std::invalid_argument& error) {
      reject_file(name_, error.what());
    }
  }

 private:
  int id_of(const std::string& token, const char* what) const {
    const auto found = vocabulary_.find(token);
    if (found == vocabulary_.end())
      reject_file(name_, "the vocabulary lacks ", shown(token), ", ", what,
                  rules_.bytes.size() < 256 ? " of a byte-level alphabet" : " of a merge");
    return found->second;
  }
  std::string name_;
  const Vocabulary& vocabulary_;
  BytePairRules rules_;
  std::vector<int> used_;  // ids
};

inline ByteLevelRules::Vocabulary vocabulary_of(const std::string& name, const nlohmann::json& object) {
  if (!object.is_object())
    reject_file(name, "the vocabulary is ", object.type_name(), ", expected an object");
  ByteLevelRules::Vocabulary vocabulary;
  const nlohmann::json none = nlohmann::json::object();
  const JsonObject numbers(name, none);
  for (const auto& [token, id] : object.items())
    vocabulary[token] = static_cast<int>(numbers.integer("vocab", id, 0, BytePairRules::most_ids - 1));
  return vocabulary;
}

// Reads what tokenizer.json says beside vocabulary and merges. Whatever would change ids and is not supported
// is an error that names the member.
class TokenizerJson {
 public:
  TokenizerJson(const std::string& name, const nlohmann::json& json) : name_(name), json_(json) {}

  Tokenizer read() {
    const JsonObject file(name_, json_);
    refuse_others(json_, "",
                  {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                   "post_processor", "decoder", "model"});
    for (const char* member : {"truncation", "padding"}) refuse_if_set(json_, "", member);
    const bool nfc = json_.contains("normalizer") && has_type(json_["normalizer"], "NFC");
    if (!nfc) refuse_if_set(json_, "", "normalizer");
    const nlohmann::json& model = file.at("model");
    const JsonObject fields(name_ + ": model", model);
    refuse_others(model, "model.",
                  {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                   "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
    if (model.contains("type") && model["type"] != "BPE") refuse("model.type", model["type"], "\"BPE\"");
    for (const char* member : {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                               "fuse_unk", "byte_fallback"})
      refuse_if_set(model, "model.", member);
    const ByteLevelRules::Vocabulary vocabulary = vocabulary_of(name_, fields.at("vocab"));
    ByteLevelRules rules(name_, vocabulary);
    rules.rules().nfc = nfc;
    rules.rules().whole_pretokens = model.value("ignore_merges", false);
    for (const nlohmann::json& merge : fields.list("merges")) read_merge(merge, rules);
    if (json_.contains("added_tokens"))
      for (const nlohmann::json& token : file.list("added_tokens")) read_added(token, rules);
    rules.rules().split = split_of(file.at("pre_tokenizer"));
    if (json_.contains("decoder") && !json_["decoder"].is_null())
      need_byte_level("decoder", json_["decoder"]);
    if (json_.contains("post_processor")) read_start(json_["post_processor"], rules.rules().start);
    return rules.finish();
  }

 private:
  [[noreturn]] void refuse(std::string_view member, const nlohmann::json& found,
                           std::string_view expected) const {
    reject_file(name_, "\"", member, "\" is ", shown(found.dump()), ", which is not supported; expected ",
                expected);
  }
  void refuse_others(const nlohmann::json& object, const std::string& prefix,
                     std::initializer_list<std::string_view> known) const {
    for (const auto& [member, value] : object.items())
      if (std::find(known.begin(), known.end(), member) == known.end())
        reject_file(name_, "has the member ", shown(prefix + member),
                    ", which is not known: it may change ids");
  }
  // null, false and "" mean that nothing is set.
  void refuse_if_set(const nlohmann::json& object, const std::string& prefix, const char* member) const {
    const auto found = object.find(member);
    if (found == object.end() || found->is_null() || *found == false || *found == "") return;
    refuse(prefix + member, *found, "null");
  }
  static bool has_type(const nlohmann::json& value, const char* type) {
    return value.is_object() && value.contains("type") && value["type"] == type;
  }
  void need_byte_level(const char* member, const nlohmann::json& value) const {
    if (!has_type(value, "ByteLevel")) refuse(member, value, "type ByteLevel");
  }
  void read_merge(const nlohmann::json& merge, ByteLevelRules& rules) const {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
      return rules.add_merge(merge[0], merge[1]);
    const std::string text = merge.is_string() ? merge.get<std::string>() : "";
    const std::size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
      refuse("model.merges", merge, "\"left right\" or [\"left\", \"right\"]");
    rules.add_merge(text.substr(0, space), text.substr(space + 1));
  }
  void read_added(const nlohmann::json& token, ByteLevelRules& rules) const {
    const JsonObject fields(name_ + ": added_tokens", token);
    for (const char* member : {"single_word", "lstrip", "rstrip"})
      refuse_if_set(token, "added_tokens.", member);
    rules.add_special(static_cast<int>(fields.integer("id", 0, BytePairRules::most_ids - 1)),
                      fields.text("content"));
  }
  Split split_of(const nlohmann::json& value) const {
    if (has_type(value, "ByteLevel")) {
      if (value.value("add_prefix_space", true)) refuse("pre_tokenizer.add_prefix_space", true, "false");
      return value.value("use_regex", true) ? Split::gpt2 : Split::none;
    }
    const bool sequence = has_type(value, "Sequence") && value.contains("pretokenizers") &&
                          value["pretokenizers"].is_array() && value["pretokenizers"].size() == 2;
    if (!sequence) refuse("pre_tokenizer", value, "ByteLevel, or a Sequence of Split and ByteLevel");
    const nlohmann::json &split = value["pretokenizers"][0], &bytes = value["pretokenizers"][1];
    if (!has_type(split, "Split") || split.value("behavior", "") != "Isolated" ||
        split.value("invert", false))
      refuse("pre_tokenizer.pretokenizers[0]", split, "Split with behavior Isolated");
    if (split_of(bytes) != Split::none) refuse("pre_tokenizer.use_regex", true, "false behind a Split");
    const nlohmann::json pattern = split.value("pattern", nlohmann::json{});
    const std::string regex = pattern.is_object() ? pattern.value("Regex", "") : "";
    if (regex == gpt2_pattern) return Split::gpt2;
    if (regex == llama3_pattern) return Split::llama3;
    if (regex == qwen2_pattern) return Split::qwen2;
    refuse("pre_tokenizer.pattern", pattern, "the pattern of GPT-2, Llama 3 or Qwen 2");
  }
  // TemplateProcessing: special tokens before a text.
  void read_start(const nlohmann::json& value, std::vector<int>& start) const {
    if (value.is_null() || has_type(value, "ByteLevel")) return;
    if (has_type(value, "Sequence") && value.contains("processors") && value["processors"].is_array()) {
      for (const nlohmann::json& inner : value["processors"]) read_start(inner, start);
      return;
    }
    if (!has_type(value, "TemplateProcessing"))
      refuse("post_processor", value, "ByteLevel or TemplateProcessing");
    const JsonObject fields(name_ + ": post_processor", value);
    bool text_seen = false;
    for (const nlohmann::json& part : fields.list("single")) {
      if (part.is_object() && part.contains("Sequence") && !text_seen) {
        text_seen = true;
      } else if (part.is_object() && part.contains("SpecialToken") && !text_seen) {
        const std::string id = JsonObject(name_, part["SpecialToken"]).text("id");
        const JsonObject tokens(name_ + ": post_processor.special_tokens", fields.at("special_tokens"));
        const JsonObject token(name_ + ": post_processor.special_tokens", tokens.at(id.c_str()));
        for (const Index i : token.integers("ids", 0, BytePairRules::most_ids - 1))
          start.push_back(static_cast<int>(i));
      } else {
        refuse("post_processor.single", part, "special tokens, then the text");
      }
    }
  }

  std::string name_;
  const nlohmann::json& json_;
};

}  // namespace detail

// A byte-level BPE tokenizer.json, with the split pattern of GPT-2, Llama 3 or Qwen 2 and added tokens. The
// tokens that its template puts before a text are in rules().start. Throws std::runtime_error for a file that
// is invalid or means something else, naming the member.
inline Tokenizer read_tokenizer_json(const std::filesystem::path& path) {
  const std::string name = path.string();
  const nlohmann::json json = parse_json(name, read_file(path, detail::most_tokenizer_bytes), 16);
  try {
    return detail::TokenizerJson(name, json).read();
  } catch (const nlohmann::json::exception& error) {  // a member of another type
    reject_file(name, "is not a tokenizer.json: ", error.what());
  }
}

// GPT-2's two files: its merges and its vocabulary. Throws std::runtime_error.
inline Tokenizer read_gpt2_tokenizer(const std::filesystem::path& vocab_bpe,
                                     const std::filesystem::path& encoder_json) {
  const auto vocabulary = detail::vocabulary_of(
      encoder_json.string(),
      parse_json(encoder_json.string(), read_file(encoder_json, detail::most_tokenizer_bytes)));
  detail::ByteLevelRules rules(encoder_json.string(), vocabulary);
  const std::string merges = read_file(vocab_bpe, detail::most_tokenizer_bytes);
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < merges.size();) {
    const std::size_t end = std::min(merges.find('\n', begin), merges.size());
    const std::string line = merges.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.empty() || (number == 1 && line.rfind("#version", 0) == 0)) continue;
    const std::size_t space = line.find(' ');
    if (space == std::string::npos)
      reject_file(vocab_bpe.string(), "line ", number, " is ", shown(line), ", expected two tokens");
    rules.add_merge(line.substr(0, space), line.substr(space + 1));
  }
  const auto end = vocabulary.find("<|endoftext|>");
  if (end != vocabulary.end()) rules.add_special(end->second, end->first);
  return rules.finish();
}

// tokenizer.json, which `tokenizers` and `transformers` read. Throws std::invalid_argument for a tokenizer
// that is not of byte pairs, std::runtime_error if the file cannot be written.
inline void write_tokenizer_json(const std::filesystem::path& path, const Tokenizer& tokenizer) {
  const BytePairs* pairs = tokenizer.byte_pairs();
  check(pairs != nullptr,
        "write_tokenizer_json: the tokenizer is of bytes or characters, expected one of byte "
        "pairs");
  const BytePairRules& rules = pairs->rules();
  using Json = nlohmann::ordered_json;
  const auto token = [&](int id) { return detail::in_byte_characters(pairs->token(id)); };
  Json merges = Json::array(), added = Json::array();
  std::vector<int> ids = rules.bytes;
  for (const auto& merge : rules.merges) {
    ids.push_back(merge.id);
    merges.push_back({token(merge.left), token(merge.right)});
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  std::string vocabulary = "{";  // an ordered object is searched with each insertion
  std::unordered_set<std::string> written;
  const auto add_to_vocabulary = [&](const std::string& text, int id) {
    if (!written.insert(text).second) return;
    if (vocabulary.size() > 1) vocabulary += ',';
    vocabulary += json_quoted(text);
    vocabulary += ':';
    vocabulary += std::to_string(id);
  };
  for (const int id : ids) add_to_vocabulary(token(id), id);
  // Without this, `tokenizers` gives a special token the id behind all others.
  for (const auto& special : rules.special) add_to_vocabulary(special.text, special.id);
  vocabulary += '}';
  for (const auto& special : rules.special)
    added.push_back({{"id", special.id},
                     {"content", special.text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  const auto byte_level = [](bool regex) {
    return Json{
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", regex}};
  };
  Json split = byte_level(rules.split == Split::gpt2);
  if (rules.split == Split::llama3 || rules.split == Split::qwen2)
    split = {{"type", "Sequence"},
             {"pretokenizers",
              {{{"type", "Split"},
                {"pattern",
                 {{"Regex", std::string(rules.split == Split::llama3 ? llama3_pattern : qwen2_pattern)}}},
                {"behavior", "Isolated"},
                {"invert", false}},
               byte_level(false)}}};
  Json start = nullptr;
  if (!rules.start.empty()) {
    Json single = Json::array(), tokens = Json::object();
    for (const int id : rules.start) {
      const std::string text(pairs->token(id));
      single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
      tokens[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
    }
    single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
    Json pair = single;
    pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 0}}}});
    start = {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", tokens}};
  }
  const Json model = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", nullptr},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", false},
                      {"byte_fallback", false},
                      {"ignore_merges", rules.whole_pretokens},
                      {"vocab", ""},
                      {"merges", merges}};
  std::string text = Json{
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added},
      {"normalizer", rules.nfc ? Json{{"type", "NFC"}} : Json(nullptr)},
      {"pre_tokenizer", split},
      {"post_processor", start},
      {"decoder", byte_level(true)},
      {"model", model}}.dump();
  const std::string_view place = "\"vocab\":\"\"";
  vocabulary.insert(0, "\"vocab\":");
  text.replace(text.find(place), place.size(), vocabulary);
  text += '\n';
  write_file_atomically(path, [&](auto& out) { out.write(text); });
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
