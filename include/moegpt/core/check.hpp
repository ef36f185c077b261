#pragma once
// Argument checks at the API boundary: found, expected, what to do. Internal code does not check.
#include <moegpt/core/build.hpp>

#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <class Part>
void append_text(std::string& text, const Part& part) {
  if constexpr (std::is_floating_point_v<Part>) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%g", static_cast<double>(part));
    text += digits;
  } else if constexpr (std::is_arithmetic_v<Part>)
    text += std::to_string(part);
  else
    text += std::string_view(part);
}

template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void reject(const Parts&... parts) {
  std::string text = "moegpt: ";
  (append_text(text, parts), ...);
  throw std::invalid_argument(text);
}

// Throws std::invalid_argument with the concatenated parts as message unless `holds`.
template <class... Parts>
void check(bool holds, const Parts&... parts) {
  if (!holds) [[unlikely]]
    reject(parts...);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
