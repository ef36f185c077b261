#pragma once
// A text that arrives in pieces of bytes: what may be shown of it, in whole UTF-8 characters, and where a
// stop string ends it.
#include <moegpt/text/tokenizer.hpp>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace utf8 {

// Bytes at the end of `text` that begin a character and lack its rest: 0 .. 3. Bytes that no character can
// have are not held back.
inline std::size_t incomplete_tail(std::string_view text) {
  const auto byte = [&](std::size_t from_end) {
    return static_cast<unsigned char>(text[text.size() - from_end]);
  };
  for (std::size_t n = 1; n <= 3 && n <= text.size(); ++n) {
    const unsigned lead = byte(n);
    if ((lead & 0xc0) == 0x80) continue;  // the lead is before it
    const std::size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || n >= bytes) return 0;
    if (n == 1) return 1;
    // the second byte has limits where a character could be overlong, a surrogate or above U+10FFFF
    const unsigned second = byte(n - 1),
                   least = lead == 0xe0   ? 0xa0
                           : lead == 0xf0 ? 0x90
                                          : 0x80,
                   most = lead == 0xed   ? 0x9f
                          : lead == 0xf4 ? 0x8f
                                         : 0xbf;
    return second >= least && second <= most ? n : 0;
  }
  return 0;
}

}  // namespace utf8

class TextStream {
 public:
  // Each stop string ends the text, which does not contain it. std::invalid_argument for an empty one.
  explicit TextStream(std::vector<std::string> stop = {}) : stop_(std::move(stop)) {
    for (const std::string& s : stop_)
      check(!s.empty(), "a stop string is empty: it would end every text at once");
  }

  // The text goes on with `bytes`. Returns what may be shown now: not the beginning of a character, and
  // nothing that a stop string may begin with. The view lives until the next call.
  std::string_view push(std::string_view bytes) {
    if (stopped_) return {};
    text_ += bytes;
    std::size_t end = std::string::npos;
    for (const std::string& s : stop_) end = std::min(end, text_.find(s, shown_));
    stopped_ = end != std::string::npos;
    if (stopped_)
      text_.resize(end);
    else
      end = text_.size() - std::max(utf8::incomplete_tail(unseen()), stop_tail());
    return show(end);
  }
  // The text ends: returns what was held back, whole characters or not.
  std::string_view finish() { return show(text_.size()); }

  bool stopped() const { return stopped_; }
  // So far, without the stop string.
  const std::string& text() const { return text_; }

 private:
  std::vector<std::string> stop_;
  std::string text_;
  std::size_t shown_ = 0;  // bytes of text_; no stop string begins in them
  bool stopped_ = false;

  std::string_view unseen() const { return std::string_view(text_).substr(shown_); }
  std::string_view show(std::size_t end) {
    const std::string_view part = std::string_view(text_).substr(shown_, end - shown_);
    shown_ = end;
    return part;
  }
  // The longest end of what is not shown that begins a stop string.
  std::size_t stop_tail() const {
    std::size_t longest = 0;
    for (const std::string& s : stop_)
      for (std::size_t n = std::min(s.size() - 1, unseen().size()); n > longest; --n)
        if (unseen().substr(unseen().size() - n) == std::string_view(s).substr(0, n)) longest = n;
    return longest;
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
