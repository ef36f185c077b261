#pragma once
// walk::Path: the path of a weight, as traversals of a parameter tree build it (core/fields.hpp).
#include <moegpt/core/build.hpp>

#include <cstddef>
#include <cstring>
#include <string_view>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace walk {

// The path of the current weight, in fixed memory: an optimizer step must not allocate. Names beyond 254
// characters are omitted.
class Path {
 public:
  std::string_view text() const { return {text_, length_}; }
  std::string_view name() const { return text().substr(text().rfind('.') + 1); }  // last component
  [[gnu::noinline]] std::size_t push(std::string_view name) {
    const std::size_t before = length_;
    if (!name.empty() && length_ + name.size() + 1 < sizeof text_) {
      if (length_ > 0) text_[length_++] = '.';
      std::memcpy(text_ + length_, name.data(), name.size());
      length_ += name.size();
    }
    return before;
  }
  std::size_t push(int index) {
    char digits[12];
    char* first = digits + sizeof digits;
    do *--first = static_cast<char>('0' + index % 10);
    while ((index /= 10) > 0);
    return push(std::string_view(first, static_cast<std::size_t>(digits + sizeof digits - first)));
  }
  void pop(std::size_t before) { length_ = before; }

 private:
  char text_[256];
  std::size_t length_ = 0;
};

}  // namespace walk
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
