#pragma once
// Tokenizer: text to token ids and back, with one id per byte, per character of a given text, or per token of
// byte-pair rules. Its state is one string, which a model's file contains.
#include <moegpt/text/byte_pairs_text.hpp>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <span>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

class Tokenizer {
 public:
  // One id per byte, 256 ids, for any text. The same as Tokenizer::bytes().
  Tokenizer() = default;
  static Tokenizer bytes() { return {}; }

  // One id per Unicode character of `text`, in ascending order: on ASCII, the ids of sorted(set(text)) in
  // nanoGPT and makeMoE. std::invalid_argument if `text` is empty or not UTF-8.
  static Tokenizer characters(std::string_view text) {
    check(!text.empty(), "a character tokenizer takes its characters from a text; found an empty one");
    std::vector<bool> occurs(0x110000);
    utf8::for_each_character(text, [&](char32_t c, std::size_t) { occurs[c] = true; });
    Tokenizer tokenizer;
    for (char32_t c = 0; c < occurs.size(); ++c)
      if (occurs[c]) tokenizer.characters_.push_back(c);
    return tokenizer;
  }

  // Byte-pair encoding: rules from BytePairTrainer, or of a published tokenizer. Throws std::invalid_argument
  // for rules that contradict themselves. Copies share the rules.
  static Tokenizer byte_pairs(BytePairRules rules) {
    Tokenizer tokenizer;
    tokenizer.byte_pairs_ = std::make_shared<const BytePairs>(std::move(rules));
    return tokenizer;
  }
  // Null for a tokenizer of another kind.
  const BytePairs* byte_pairs() const { return byte_pairs_.get(); }

  // Whether encode accepts this text.
  bool knows(std::string_view text) const {
    if (characters_.empty()) return true;
    for (std::size_t offset = 0; offset < text.size();) {
      const utf8::Character c = utf8::read(text, offset);
      if (c.bytes == 0 || !std::binary_search(characters_.begin(), characters_.end(), c.value)) return false;
      offset += c.bytes;
    }
    return true;
  }

  // The number of ids.
  int vocab() const {
    if (byte_pairs_) return byte_pairs_->vocab();
    return is_bytes() ? 256 : static_cast<int>(characters_.size());
  }

  // Throws std::invalid_argument for an unknown character, with its byte offset, or a text that is not UTF-8.
  // Bytes and byte pairs accept any text. Special tokens in the text are text.
  std::vector<int> encode(std::string_view text) const {
    std::vector<int> ids;
    ids.reserve(byte_pairs_ ? text.size() / 3 : text.size());
    if (byte_pairs_)
      byte_pairs_->encode(text, ids);
    else if (is_bytes())
      for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    else
      utf8::for_each_character(text, [&](char32_t c, std::size_t at) { ids.push_back(id_of(c, at)); });
    return ids;
  }

  // The text of ids. Throws std::invalid_argument for an id outside [0, vocab()). An id of bytes or byte
  // pairs may be a part of a character.
  std::string decode(std::span<const int> ids) const {
    std::string text;
    text.reserve(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      check(ids[i] >= 0 && ids[i] < vocab(), "token id ", ids[i], " at position ", i, " is outside [0, ",
            vocab(), "), the ids of this tokenizer");
      if (byte_pairs_)
        text += byte_pairs_->token(ids[i]);
      else if (is_bytes())
        text += static_cast<char>(static_cast<unsigned char>(ids[i]));
      else
        utf8::append(text, characters_[static_cast<std::size_t>(ids[i])]);
    }
    return text;
  }

  // The whole state as UTF-8: "bytes", "characters:" and the characters in the order of their ids, or
  // "byte pairs:" and the text of the rules.
  std::string to_text() const {
    if (byte_pairs_) return std::string(byte_pairs_name) + moegpt::to_text(byte_pairs_->rules());
    if (is_bytes()) return std::string(bytes_name);
    std::string text(characters_name);
    for (const char32_t c : characters_) utf8::append(text, c);
    return text;
  }

  // The inverse of to_text(); std::invalid_argument for anything to_text() does not write.
  static Tokenizer from_text(std::string_view text) {
    if (text == bytes_name) return bytes();
    if (text.substr(0, byte_pairs_name.size()) == byte_pairs_name)
      return byte_pairs(byte_pairs_from_text(text.substr(byte_pairs_name.size())));
    const bool named = text.substr(0, characters_name.size()) == characters_name;
    check(named && text.size() > characters_name.size(), "a tokenizer is described by '", bytes_name, "', '",
          characters_name, "' and its characters, or '", byte_pairs_name, "' and its rules; found '",
          text.substr(0, 40), "'");
    Tokenizer tokenizer;
    utf8::for_each_character(text.substr(characters_name.size()), [&](char32_t c, std::size_t offset) {
      auto& known = tokenizer.characters_;
      check(known.empty() || known.back() < c, "the characters of a tokenizer must ascend; character ",
            known.size(), " (byte ", characters_name.size() + offset, " of its description) does not");
      known.push_back(c);
    });
    return tokenizer;
  }

  bool operator==(const Tokenizer& other) const {
    const bool same = byte_pairs_ && other.byte_pairs_ ? *byte_pairs_ == *other.byte_pairs_
                                                       : byte_pairs_ == other.byte_pairs_;
    return same && characters_ == other.characters_;
  }

 private:
  static constexpr std::string_view bytes_name = "bytes",
                                    characters_name = "characters:", byte_pairs_name = "byte pairs:";

  bool is_bytes() const { return characters_.empty() && !byte_pairs_; }

  int id_of(char32_t c, std::size_t offset) const {
    const auto place = std::lower_bound(characters_.begin(), characters_.end(), c);
    if (place == characters_.end() || *place != c) reject(c, offset);
    return static_cast<int>(place - characters_.begin());
  }

  [[noreturn]] void reject(char32_t c, std::size_t offset) const {
    const std::size_t shown = std::min<std::size_t>(characters_.size(), 100);
    std::string known;
    for (std::size_t i = 0; i < shown; ++i) known += utf8::shown(characters_[i]);
    if (characters_.size() > shown) known += " ...";
    char code[16];
    std::snprintf(code, sizeof code, "U+%04X", static_cast<unsigned>(c));
    check(false, "the character '", utf8::shown(c), "' (", code, ") at byte ", offset, " is not one of the ",
          characters_.size(), " characters this tokenizer knows: ", known);
    __builtin_unreachable();
  }

  std::vector<char32_t> characters_;             // ascending; a character's id is its index
  std::shared_ptr<const BytePairs> byte_pairs_;  // if neither: ids are bytes
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
