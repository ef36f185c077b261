#pragma once
// UTF-8: reading and writing of characters.
#include <moegpt/core/check.hpp>

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

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
