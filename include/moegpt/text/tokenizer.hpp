#pragma once
// Tokenizer: text to token ids and back, with one id per byte, or per character of a given text. Its state is
// one string, which a model's file contains.
#include <moegpt/core/check.hpp>

#include <algorithm>
#include <cstdio>
#include <span>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace utf8 {

struct Character {
  char32_t value;
  std::size_t bytes;  // read; 0 where the text is not UTF-8
};

// The character that begins at `offset`. Rejects what RFC 3629 forbids: stray, missing and overlong bytes,
// surrogates, and values above U+10FFFF.
inline Character read(std::string_view text, std::size_t offset) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const char32_t lead = byte(offset);
  if (lead < 0x80) return {lead, 1};
  const std::size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() - offset < bytes) return {0, 0};
  char32_t value = lead & (0x7fu >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(offset + i) & 0xc0) != 0x80) return {0, 0};
    value = value << 6 | (byte(offset + i) & 0x3f);
  }
  constexpr char32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = value >= 0xd800 && value < 0xe000;
  return value < least[bytes] || surrogate || value > 0x10ffff ? Character{0, 0} : Character{value, bytes};
}

inline void append(std::string& text, char32_t c) {
  const auto put = [&](char32_t byte) { text += static_cast<char>(static_cast<unsigned char>(byte)); };
  const auto tail = [&](int shift) { put(0x80 | ((c >> shift) & 0x3f)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xc0 | c >> 6), tail(0);
  } else if (c < 0x10000) {
    put(0xe0 | c >> 12), tail(6), tail(0);
  } else {
    put(0xf0 | c >> 18), tail(12), tail(6), tail(0);
  }
}

// Offset of the first byte that is not UTF-8; npos: none.
inline std::size_t first_invalid(std::string_view text) {
  for (std::size_t offset = 0; offset < text.size();) {
    const Character c = read(text, offset);
    if (c.bytes == 0) return offset;
    offset += c.bytes;
  }
  return std::string_view::npos;
}

// f(character, byte offset) for every character; std::invalid_argument where the text is not UTF-8.
template <class F>
void for_each_character(std::string_view text, F&& f) {
  for (std::size_t offset = 0; offset < text.size();) {
    const Character c = read(text, offset);
    check(c.bytes > 0, "the text is not valid UTF-8 at byte ", offset, " (value ",
          static_cast<int>(static_cast<unsigned char>(text[offset])),
          "); convert it to UTF-8 or use Tokenizer::bytes()");
    f(c.value, offset);
    offset += c.bytes;
  }
}

// A character for error messages: control characters as escape or code point.
inline std::string shown(char32_t c) {
  if (c == '\n') return "\\n";
  if (c == '\t') return "\\t";
  if (c == '\r') return "\\r";
  std::string text;
  if (c < 0x20 || (c >= 0x7f && c < 0xa0)) {
    char code[16];
    std::snprintf(code, sizeof code, "U+%04X", static_cast<unsigned>(c));
    return code;
  }
  append(text, c);
  return text;
}

}  // namespace utf8

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

  // Whether encode accepts this text.
  bool knows(std::string_view text) const {
    if (is_bytes()) return true;
    for (std::size_t offset = 0; offset < text.size();) {
      const utf8::Character c = utf8::read(text, offset);
      if (c.bytes == 0 || !std::binary_search(characters_.begin(), characters_.end(), c.value)) return false;
      offset += c.bytes;
    }
    return true;
  }

  // The number of ids.
  int vocab() const { return is_bytes() ? 256 : static_cast<int>(characters_.size()); }

  // Throws std::invalid_argument for an unknown character, with its byte offset, or a text that is not UTF-8.
  // The byte tokenizer accepts any text.
  std::vector<int> encode(std::string_view text) const {
    std::vector<int> ids;
    ids.reserve(text.size());
    if (is_bytes())
      for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    else
      utf8::for_each_character(text, [&](char32_t c, std::size_t at) { ids.push_back(id_of(c, at)); });
    return ids;
  }

  // The text of ids. Throws std::invalid_argument for an id outside [0, vocab()). An id of a byte tokenizer
  // may be a part of a character.
  std::string decode(std::span<const int> ids) const {
    std::string text;
    text.reserve(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      check(ids[i] >= 0 && ids[i] < vocab(), "token id ", ids[i], " at position ", i, " is outside [0, ",
            vocab(), "), the ids of this tokenizer");
      if (is_bytes())
        text += static_cast<char>(static_cast<unsigned char>(ids[i]));
      else
        utf8::append(text, characters_[static_cast<std::size_t>(ids[i])]);
    }
    return text;
  }

  // The whole state as UTF-8: "bytes", or "characters:" and the characters in the order of their ids.
  std::string to_text() const {
    if (is_bytes()) return std::string(bytes_name);
    std::string text(characters_name);
    for (const char32_t c : characters_) utf8::append(text, c);
    return text;
  }

  // The inverse of to_text(); std::invalid_argument for anything to_text() does not write.
  static Tokenizer from_text(std::string_view text) {
    if (text == bytes_name) return bytes();
    const bool named = text.substr(0, characters_name.size()) == characters_name;
    check(named && text.size() > characters_name.size(), "a tokenizer is described by '", bytes_name,
          "' or '", characters_name, "' and its characters; found '", text.substr(0, 40), "'");
    Tokenizer tokenizer;
    utf8::for_each_character(text.substr(characters_name.size()), [&](char32_t c, std::size_t offset) {
      auto& known = tokenizer.characters_;
      check(known.empty() || known.back() < c, "the characters of a tokenizer must ascend; character ",
            known.size(), " (byte ", characters_name.size() + offset, " of its description) does not");
      known.push_back(c);
    });
    return tokenizer;
  }

  bool operator==(const Tokenizer&) const = default;

 private:
  static constexpr std::string_view bytes_name = "bytes", characters_name = "characters:";

  bool is_bytes() const { return characters_.empty(); }

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

  std::vector<char32_t> characters_;  // ascending; a character's id is its index; empty: ids are bytes
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
