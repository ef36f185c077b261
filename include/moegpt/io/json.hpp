#pragma once
// Text for files and messages: JSON strings, and shortened text for error messages.
#include <moegpt/core/matrix.hpp>

#include <span>
#include <string>
#include <string_view>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// A JSON string, quotes included. Bytes above 127 pass unchanged: UTF-8 in, UTF-8 out.
inline std::string json_quoted(std::string_view text) {
  static constexpr char hex[] = "0123456789abcdef";
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      (quoted += '\\') += c;
    else if (byte < 0x20)
      ((quoted += "\\u00") += hex[byte >> 4]) += hex[byte & 15];
    else
      quoted += c;
  }
  return quoted += '"';
}

// For messages: 'text' without control characters, truncated to `limit` bytes between UTF-8 characters.
inline std::string shown(std::string_view text, std::size_t limit = 80) {
  std::size_t end = text.size() < limit ? text.size() : limit;
  while (end < text.size() && end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  std::string result = "'";
  for (const char c : text.substr(0, end))
    result += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return result += end < text.size() ? "...'" : "'";
}

// For messages: a shape as [3, 4]
inline std::string shown(std::span<const Index> shape) {
  std::string result = "[";
  for (const Index extent : shape) result += (result.size() > 1 ? ", " : "") + std::to_string(extent);
  return result += "]";
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
