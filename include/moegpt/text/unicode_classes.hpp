#pragma once
// Classes of Unicode 14 characters that the split patterns of tokenizers name: letters (\p{L}), numbers
// (\p{N}) and white space (\s, the property White_Space).
#include <moegpt/text/unicode_tables.hpp>

#include <algorithm>
#include <iterator>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace unicode {

enum class Class : unsigned char { letter, number, space, other };

namespace detail {

template <std::size_t N>
bool contains(const Range (&ranges)[N], char32_t c) {
  const Range* after =
      std::upper_bound(ranges, ranges + N, c, [](char32_t x, const Range& range) { return x < range.first; });
  return after != ranges && c <= after[-1].last;
}

}  // namespace detail

inline bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

inline Class class_of(char32_t c) {
  if (c < 0x80) {
    const char32_t lower = c | 0x20;
    if (lower >= 'a' && lower <= 'z') return Class::letter;
    if (c >= '0' && c <= '9') return Class::number;
    return is_space(c) ? Class::space : Class::other;
  }
  if (is_space(c)) return Class::space;
  if (detail::contains(detail::letters, c)) return Class::letter;
  return detail::contains(detail::numbers, c) ? Class::number : Class::other;
}

}  // namespace unicode
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
