#pragma once
// The text of `train` as tokens, and the units of its losses.
#include <moegpt/io/huggingface.hpp>

#include "options.hpp"

namespace training {

struct Text {
  Tokenizer tokenizer;
  TokenSequence train, val;
  std::uint64_t hash = 0;          // of all tokens
  bool utf8 = true;                // so that losses can be stated per character
  double entropy_rate = 0;         // nats per character, the least possible loss; 0: unknown
  std::optional<int> separator{};  // hides documents from each other
};

inline bool is_file(const std::string& choice) {
  return choice != "auto" && choice != "characters" && choice != "bytes";
}
inline Tokenizer tokenizer_of_file(const std::string& path) {
  if (std::filesystem::is_directory(path)) return read_huggingface_tokenizer(path);
  if (path.ends_with(".json")) return read_tokenizer_json(path);
  return Tokenizer::from_text(detail::metadata_of(read_safetensors(path), "moegpt.tokenizer"));
}
inline Tokenizer choose_tokenizer(const Options& o, const TextSurvey& survey) {
  const std::string& choice = o.tokenizer;
  if (choice == "bytes") return Tokenizer::bytes();
  if (is_file(choice)) return tokenizer_of_file(choice);
  if (!survey.invalid.empty()) {
    check(choice == "auto", "the text is not UTF-8 (", survey.invalid, "): use --tokenizer bytes");
    o.show("the text is not UTF-8 (" + survey.invalid + "): its tokens are bytes\n");
    return Tokenizer::bytes();
  }
  Tokenizer characters = Tokenizer::characters(survey.alphabet);
  if (characters.vocab() <= 256) return characters;
  check(choice == "auto", "the text has ", characters.vocab(),
        " different characters, this program's models at most 256: use --tokenizer bytes");
  o.show("the text has " + std::to_string(characters.vocab()) +
         " different characters: its tokens are bytes\n");
  return Tokenizer::bytes();
}

inline TokenSequence tokens_of(const std::string& text, const Tokenizer& tokenizer) {
  const std::vector<int> ids = tokenizer.encode(text);
  return with_integer_of(smallest_type(tokenizer.vocab()), [&](auto u) {
    return TokenSequence(std::vector<decltype(u)>(ids.begin(), ids.end()));
  });
}

inline Bytes rule_of(const std::string& name) {
  return name == "keep" ? Bytes::keep : name == "remove" ? Bytes::remove : Bytes::refuse;
}

inline TokenSequence generated_text(const Options& o, Text& text) {
  const Dialects dialects;
  const std::string generated = dialects.generate(1100000, Key{o.seed}.with(Purpose::corpus)).text;
  text.tokenizer = o.tokenizer == "bytes" ? Tokenizer::bytes()
                   : is_file(o.tokenizer) ? tokenizer_of_file(o.tokenizer)
                                          : Tokenizer::characters(generated);
  text.entropy_rate = dialects.entropy_rate();
  return tokens_of(generated, text.tokenizer);
}

using Paths = std::vector<std::filesystem::path>;

inline TokenSequence text_of_files(const Options& o, const Paths& paths, Text& text) {
  const TextFiles files{.files = paths,
                        .rules = {.carriage_return = rule_of(o.carriage_return),
                                  .nul = rule_of(o.nul),
                                  .invalid = rule_of(o.invalid)},
                        .separator = o.separator == "auto" ? "\f" : ""};
  const TextSurvey found = survey(files);
  check(found.bytes > 0, "the text is empty");
  text.tokenizer = choose_tokenizer(o, found);
  text.utf8 = found.characters > 0;
  return encode(files, text.tokenizer);
}

// Whether --data are token ids. They have no text of their own: a tokenizer of bytes or of a model.
inline bool are_ids(const Options& o, const Paths& paths) {
  if (o.format != "auto") return o.format != "text";
  const auto has_header = [](const auto& path) { return token_file::format_of(path) != nullptr; };
  const bool first = has_header(paths[0]);
  for (const auto& path : paths)
    check(has_header(path) == first, paths[0].string(), " holds ", first ? "token ids, " : "text, ",
          path.string(), first ? " text" : " token ids", ": give files of one kind, or --format");
  return first;
}
inline TokenSequence ids_of_files(const Options& o, const Paths& paths, Text& text) {
  if (o.tokenizer == "characters")
    throw options::Failure(
        2,
        "--tokenizer is 'characters', but --data are token ids, which have no text to take "
        "characters from: expected bytes, or a model's file");
  if (is_file(o.tokenizer)) text.tokenizer = tokenizer_of_file(o.tokenizer);
  text.utf8 = text.tokenizer != Tokenizer::bytes();
  TokenFileOptions how{.vocab = text.tokenizer.vocab()};
  if (o.format != "auto") how.type = o.format == "uint16" ? TokenType::u16 : TokenType::u32;
  try {
    return read_tokens(paths, how);
  } catch (const std::runtime_error& error) {
    if (is_file(o.tokenizer)) throw;
    throw std::runtime_error(std::string(error.what()) +
                             ". Without --tokenizer FILE, ids are those of bytes, 0 .. 255");
  }
}

// Throws options::Failure with status 2 for a separator that the tokens do not have.
inline std::optional<int> separator_of(const Options& o, const Paths& paths, bool ids,
                                       const Tokenizer& tokenizer) {
  if (o.separator.empty()) return {};
  if (o.separator == "auto" && !ids) {
    if (!tokenizer.knows("\f"))
      throw options::Failure(
          2,
          "--separator is 'auto', but the text has no form feed and is not in several files: "
          "state the id of the token that ends a document");
    return tokenizer.encode("\f")[0];
  }
  int id = -1;
  if (o.separator == "auto" && huggingface::end_id(tokenizer) >= 0) {
    id = huggingface::end_id(tokenizer);
  } else if (o.separator == "auto") {
    for (const auto& path : paths) {
      const token_file::Format* format = token_file::format_of(path);
      if (!format || (id >= 0 && id != format->separator))
        throw options::Failure(2, "--separator is 'auto', but " + path.string() +
                                      " states no separator, or another one: state its id");
      id = format->separator;
    }
  } else {
    options::read(o.separator, id);
  }
  if (id >= tokenizer.vocab())
    throw options::Failure(2, "--separator is " + std::to_string(id) +
                                  ", but the ids of these tokens are 0 .. " +
                                  std::to_string(tokenizer.vocab() - 1));
  return id;
}

// The text of --data, or a generated one. Throws options::Failure with status 4 for one that cannot be used.
inline Text read_text(const Options& o) {
  try {
    Text text;
    const Paths paths = list_files(o.data);
    const bool ids = !paths.empty() && are_ids(o, paths);
    const TokenSequence tokens = paths.empty() ? generated_text(o, text)
                                 : ids         ? ids_of_files(o, paths, text)
                                               : text_of_files(o, paths, text);
    text.separator = separator_of(o, paths, ids, text.tokenizer);
    const TokenSplit split = split_tokens(tokens);
    text.train = split.train, text.val = split.val;
    text.hash = hash_of(tokens);
    return text;
  } catch (const options::Failure&) {
    throw;
  } catch (const std::exception& error) {
    throw options::Failure(4, error.what());
  }
}

// Converts a loss in nats per token to nats per character and byte of the validation part, of which the first
// token is no target.
class Units {
 public:
  explicit Units(const Text& text) : tokens_(static_cast<double>(text.val.size() - 1)) {
    for_each_token_piece(TokenView(text.val).part(1, text.val.size() - 1),
                         [&](Index, std::span<const int> ids) {
                           for (const char c : text.tokenizer.decode(ids)) {
                             bytes_ += 1;
                             characters_ += text.utf8 && (static_cast<unsigned char>(c) & 0xc0) != 0x80;
                           }
                         });
  }
  double per_character(double loss) const { return loss * tokens_ / characters_; }
  double per_byte(double loss) const { return loss * tokens_ / bytes_; }
  std::string text(double loss) const {
    char both[80];
    if (characters_ > 0)
      std::snprintf(both, sizeof both, "%.4f nats/char, %.4f nats/byte", per_character(loss), per_byte(loss));
    else
      std::snprintf(both, sizeof both, "%.4f nats/byte", per_byte(loss));
    return both;
  }

 private:
  double tokens_, bytes_ = 0, characters_ = 0;
};

}  // namespace training
