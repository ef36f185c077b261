#pragma once
// The text of `train` as tokens, and the units of its losses.
#include "options.hpp"

namespace training {

struct Text {
  Tokenizer tokenizer;
  TokenSequence train, val;
  std::uint64_t hash = 0;   // of all tokens
  bool utf8 = true;         // so that losses can be stated per character
  double entropy_rate = 0;  // nats per character, the least possible loss; 0: unknown
};

inline Tokenizer choose_tokenizer(const std::string& choice, const TextSurvey& survey) {
  if (choice == "bytes") return Tokenizer::bytes();
  if (!survey.invalid.empty()) {
    check(choice == "auto", "the text is not UTF-8 (", survey.invalid, "): use --tokenizer bytes");
    std::fprintf(stderr, "the text is not UTF-8 (%s): its tokens are bytes\n", survey.invalid.c_str());
    return Tokenizer::bytes();
  }
  Tokenizer characters = Tokenizer::characters(survey.alphabet);
  if (characters.vocab() <= 256) return characters;
  check(choice == "auto", "the text has ", characters.vocab(),
        " different characters, this program's models at most 256: use --tokenizer bytes");
  std::fprintf(stderr, "the text has %d different characters: its tokens are bytes\n", characters.vocab());
  return Tokenizer::bytes();
}

inline TokenSequence tokens_of(const std::string& text, const Tokenizer& tokenizer) {
  const std::vector<int> ids = tokenizer.encode(text);
  return TokenSequence(std::vector<std::uint8_t>(ids.begin(), ids.end()));  // at most 256 different ones
}

inline Bytes rule_of(const std::string& name) {
  return name == "keep" ? Bytes::keep : name == "remove" ? Bytes::remove : Bytes::refuse;
}

// The text of --data, or a generated one. Throws options::Failure with status 4 for one that cannot be used.
inline Text read_text(const Options& o) {
  try {
    Text text;
    TokenSequence tokens;
    if (o.data.empty()) {
      const Dialects dialects;
      const std::string generated = dialects.generate(1100000, Key{o.seed}.with(Purpose::corpus)).text;
      text.tokenizer = o.tokenizer == "bytes" ? Tokenizer::bytes() : Tokenizer::characters(generated);
      text.entropy_rate = dialects.entropy_rate();
      tokens = tokens_of(generated, text.tokenizer);
    } else {
      const TextFiles files{.files = list_files(o.data),
                            .rules = {.carriage_return = rule_of(o.carriage_return),
                                      .nul = rule_of(o.nul),
                                      .invalid = rule_of(o.invalid)}};
      const TextSurvey found = survey(files);
      check(found.bytes > 0, "the text is empty");
      text.tokenizer = choose_tokenizer(o.tokenizer, found);
      text.utf8 = found.characters > 0;
      tokens = encode(files, text.tokenizer);
    }
    const TokenSplit split = split_tokens(tokens);
    text.train = split.train, text.val = split.val;
    text.hash = hash_of(tokens);
    return text;
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
