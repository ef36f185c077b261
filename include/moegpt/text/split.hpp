#pragma once
// Split patterns of byte-pair tokenizers: they divide a text into pretokens, and no token crosses the border
// of a pretoken. Each pattern is a regular expression of its model; the functions here match it by hand,
// because std::regex has neither \p{L} nor a speed.
#include <moegpt/text/unicode_classes.hpp>
#include <moegpt/text/utf8.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Split {
  none,    // a text is one pretoken
  gpt2,    // GPT-2 (Radford et al. 2019)
  llama3,  // Llama 3 and cl100k_base, numbers in pretokens of at most three digits
  qwen2,   // Qwen 2 and 3: as llama3, but each digit is a pretoken
};

inline constexpr std::string_view gpt2_pattern =
    R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace detail {

using unicode::Class;

// A text by characters; a byte that is not UTF-8 is a character of Class::other.
struct SplitText {
  struct Character {
    Class kind;
    std::size_t bytes;
  };
  std::string_view text;

  bool is(std::size_t at, char c) const { return at < text.size() && text[at] == c; }
  bool is_newline(std::size_t at) const { return is(at, '\n') || is(at, '\r'); }
  Character character(std::size_t at) const {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte < 0x80) return {unicode::class_of(byte), 1};
    const utf8::Character c = utf8::read(text, at);
    return c.bytes > 0 ? Character{unicode::class_of(c.value), c.bytes} : Character{Class::other, 1};
  }
  bool is(std::size_t at, Class kind) const { return at < text.size() && character(at).kind == kind; }
  // The end of the run of characters of this class that begins at `at`, of at most `most` characters.
  std::size_t run(std::size_t at, Class kind, std::size_t most = std::string_view::npos) const {
    for (std::size_t count = 0; at < text.size() && count < most; ++count) {
      const Character c = character(at);
      if (c.kind != kind) break;
      at += c.bytes;
    }
    return at;
  }
  // \s+(?!\S)|\s+: all white space at the end of the text, otherwise all but its last character, which
  // belongs to the next pretoken, unless it is the only one.
  std::size_t spaces(std::size_t at) const {
    std::size_t last = at, end = at;
    while (end < text.size()) {
      const Character c = character(end);
      if (c.kind != Class::space) break;
      last = end;
      end += c.bytes;
    }
    return end == text.size() || last == at ? end : last;
  }
  // The end of 's, 't, 're and so on; `at` if there is none.
  std::size_t contraction(std::size_t at, bool ignore_case) const {
    if (!is(at, '\'') || at + 1 == text.size()) return at;
    const auto letter = [&](std::size_t i) {
      const char c = i < text.size() ? text[i] : '\0';
      return ignore_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
    };
    const char a = letter(at + 1), b = letter(at + 2);
    if (a == 's' || a == 'd' || a == 'm' || a == 't') return at + 2;
    if ((a == 'l' && b == 'l') || (a == 'v' && b == 'e') || (a == 'r' && b == 'e')) return at + 3;
    constexpr std::string_view long_s = "\u017f";  // its other case is s
    if (ignore_case && text.substr(at + 1, long_s.size()) == long_s) return at + 1 + long_s.size();
    return at;
  }

  std::size_t gpt2(std::size_t at) const {
    if (const std::size_t end = contraction(at, false); end > at) return end;
    const std::size_t begin = is(at, ' ') ? at + 1 : at;
    if (begin == text.size()) return begin;
    const Class kind = character(begin).kind;
    return kind == Class::space ? spaces(at) : run(begin, kind);
  }
  std::size_t llama3(std::size_t at, std::size_t digits) const {
    if (const std::size_t end = contraction(at, true); end > at) return end;
    const Character first = character(at);
    if (first.kind == Class::letter) return run(at, Class::letter);
    if (first.kind == Class::number) return run(at, Class::number, digits);
    const std::size_t next = at + first.bytes;
    if (!is_newline(at) && is(next, Class::letter)) return run(next, Class::letter);
    const std::size_t begin = is(at, ' ') ? next : at;
    if (is(begin, Class::other)) {
      std::size_t end = run(begin, Class::other);
      while (is_newline(end)) ++end;
      return end;
    }
    const std::size_t end = run(at, Class::space);
    const std::size_t newline = text.substr(at, end - at).find_last_of("\r\n");
    return newline == std::string_view::npos ? spaces(at) : at + newline + 1;
  }
};

}  // namespace detail

// The end of the pretoken that begins at byte `begin` < text.size(), the border of a pretoken.
inline std::size_t pretoken_end(std::string_view text, std::size_t begin, Split split) {
  const detail::SplitText characters{text};
  if (split == Split::gpt2) return characters.gpt2(begin);
  if (split == Split::llama3) return characters.llama3(begin, 3);
  if (split == Split::qwen2) return characters.llama3(begin, 1);
  return text.size();
}

// The length of a prefix that has the same pretokens alone and with any continuation of the text; 0: none is
// known. The last two pretokens may change: "'" "l" followed by "l" is "'ll".
inline std::size_t settled_prefix(std::string_view text, Split split) {
  if (split == Split::none) return 0;
  // In all patterns a pretoken ends at a newline between characters that are no white space.
  const detail::SplitText characters{text};
  for (std::size_t i = text.size(); i-- > 2;)
    if (text[i - 1] == '\n' && static_cast<unsigned char>(text[i - 2]) < 0x80 &&
        characters.character(i - 2).kind != unicode::Class::space &&
        characters.character(i).kind != unicode::Class::space)
      return i;
  std::size_t settled = 0, before_last = 0, last = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    settled = before_last;
    const std::size_t end = pretoken_end(text, begin, split);
    before_last = last;
    const bool ascii_next = end < text.size() && static_cast<unsigned char>(text[end]) < 0x80;
    // White space may continue, and a mark behind the border may join the character before it.
    if (characters.run(begin, unicode::Class::space) < end && ascii_next) last = end;
    begin = end;
  }
  return settled;
}

// f(pretoken) for each pretoken of the text, in order.
template <class F>
void for_each_pretoken(std::string_view text, Split split, F&& f) {
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = pretoken_end(text, begin, split);
    f(text.substr(begin, end - begin));
    begin = end;
  }
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
