#pragma once
// Text for files and messages: JSON, and shortened text for error messages.
#include <moegpt/core/matrix.hpp>
#include <moegpt/text/utf8.hpp>

#include <charconv>
#include <cmath>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

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

// The text with U+FFFD for each byte that is not UTF-8, as in a sample of a byte model. Logs are UTF-8.
inline std::string as_utf8(std::string_view text) {
  if (utf8::first_invalid(text) == text.npos) return std::string(text);
  std::string valid;
  for (std::size_t offset = 0; offset < text.size();) {
    const utf8::Character c = utf8::read(text, offset);
    utf8::append(valid, c.bytes > 0 ? c.value : 0xfffd);
    offset += c.bytes > 0 ? c.bytes : 1;
  }
  return valid;
}

// Appends an object to a text, member by member; then end(). A value is a number, a bool, a text, a list, an
// object (pairs of names and values), or a function that appends JSON itself. Reals have the fewest digits
// that are read as the same number; those that are not finite are the texts "nan", "inf" and "-inf", which
// JsonObject reads.
class JsonText {
 public:
  enum class Lines { one, each };  // the object in one line, or each member in a line of its own
  explicit JsonText(std::string& text, Lines lines = Lines::one, int depth = 0)
      : text_(text), lines_(lines), depth_(depth) {
    text_ += '{';
  }
  void end() {
    if (!empty_) new_line(depth_);
    text_ += '}';
  }

  template <class Value>
  JsonText& member(std::string_view name, const Value& value) {
    start(name);
    put(value);
    return *this;
  }
  // f(element) for each element of `values`, as a list.
  template <class List, class F>
  JsonText& list(std::string_view name, const List& values, F&& f) {
    start(name);
    put_list(values, f);
    return *this;
  }

 private:
  void start(std::string_view name) {
    if (!std::exchange(empty_, false)) text_ += ',';
    new_line(depth_ + 1);
    text_ += json_quoted(as_utf8(name));
    text_ += lines_ == Lines::each ? ": " : ":";
  }
  void new_line(int depth) {
    if (lines_ == Lines::each) (text_ += '\n').append(static_cast<std::size_t>(2 * depth), ' ');
  }
  template <class Value>
  void put(const Value& value) {
    if constexpr (std::is_same_v<Value, bool>) {
      text_ += value ? "true" : "false";
    } else if constexpr (std::is_floating_point_v<Value>) {
      if (std::isfinite(value))
        put_digits(value);
      else
        text_ += std::isnan(value) ? "\"nan\"" : value > 0 ? "\"inf\"" : "\"-inf\"";
    } else if constexpr (std::is_integral_v<Value>) {
      put_digits(value);
    } else if constexpr (std::is_convertible_v<const Value&, std::string_view>) {
      text_ += json_quoted(as_utf8(value));
    } else if constexpr (std::is_invocable_v<const Value&>) {
      value();
    } else if constexpr (requires { value.begin()->first; }) {
      JsonText object(text_, lines_, depth_ + 1);
      for (const auto& [name, content] : value) object.member(name, content);
      object.end();
    } else {
      put_list(value, [](const auto& element) -> const auto& { return element; });
    }
  }
  template <class List, class F>
  void put_list(const List& values, F&& f) {
    text_ += '[';
    for (const auto& value : values) {
      if (&value != &*values.begin()) text_ += ',';
      put(f(value));
    }
    text_ += ']';
  }
  template <class Number>
  void put_digits(Number x) {
    char digits[32];
    text_.append(digits, std::to_chars(digits, digits + sizeof digits, x).ptr);
  }

  std::string& text_;
  Lines lines_;
  int depth_;
  bool empty_ = true;
};

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
