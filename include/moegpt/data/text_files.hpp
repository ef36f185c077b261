#pragma once
// The text of several files, read piece by piece, with a rule for each kind of byte that is not quite text.
#include <moegpt/io/file.hpp>
#include <moegpt/text/tokenizer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Bytes { keep, remove, refuse };

struct TextRules {
  Bytes byte_order_mark = Bytes::remove;  // U+FEFF in UTF-8 at the beginning of a file
  Bytes carriage_return = Bytes::remove;  // the CR of CR LF; Python's text mode removes it, too
  Bytes nul = Bytes::refuse;              // a byte 0, frequent where a text is not a text
  Bytes invalid = Bytes::keep;            // bytes that are not UTF-8; kept, they need Tokenizer::bytes()
};

// A part of the text, after the rules.
struct TextPiece {
  std::string_view text;  // whole characters, but for bytes that are not UTF-8
  const std::filesystem::path& file;
  std::int64_t byte;          // where it begins in the file
  std::int64_t invalid = -1;  // the file's byte that is the first of its bytes that are not UTF-8; -1: none
};

namespace detail {

// Applies the rules to a file that comes in chunks. What a text becomes does not depend on the chunks.
class TextCleaner {
 public:
  TextCleaner(const TextRules& rules, const std::filesystem::path& file) : rules_(rules), file_(file) {}

  // The memory to read the next chunk to, `size` bytes; then clean() the bytes read, 0 at the file's end.
  char* chunk_buffer(std::size_t size) {
    in_.resize(left_ + size);
    return in_.data() + left_;
  }
  // The clean text of what is decided; up to three bytes wait for the next chunk.
  TextPiece clean(std::size_t got) {
    const bool last = got == 0;
    const std::string_view in(in_.data(), left_ + got);
    const std::int64_t begin = byte_;
    out_.clear();
    invalid_ = -1;
    std::size_t i = 0;
    while (i < in.size()) {
      const std::size_t used = take(in, i, last);
      if (used == 0) break;
      i += used;
    }
    byte_ += static_cast<std::int64_t>(i);
    left_ = in.size() - i;
    std::memmove(in_.data(), in_.data() + i, left_);
    return {out_, file_, begin, invalid_};
  }

 private:
  // Takes the bytes from i on that belong together: the number of bytes; 0: more are needed.
  std::size_t take(std::string_view in, std::size_t i, bool last) {
    const auto byte = static_cast<unsigned char>(in[i]);
    if (byte == '\r') {
      if (i + 1 == in.size() && !last) return 0;
      const bool ends_line = i + 1 < in.size() && in[i + 1] == '\n';
      return put(in.substr(i, 1), ends_line ? rules_.carriage_return : Bytes::keep, i, "CR LF");
    }
    if (byte == 0) return put(in.substr(i, 1), rules_.nul, i, "a NUL");
    if (byte < 0x80) return put(in.substr(i, ordinary(in, i)), Bytes::keep, i, "");
    const utf8::Character c = utf8::read(in, i);
    if (c.bytes == 0 && in.size() - i < 4 && !last) return 0;
    if (c.bytes == 0) {
      if (invalid_ < 0 && rules_.invalid == Bytes::keep) invalid_ = byte_ + static_cast<std::int64_t>(i);
      return put(in.substr(i, 1), rules_.invalid, i, "not UTF-8");
    }
    const bool mark = c.value == 0xfeff && byte_ == 0 && i == 0;
    return put(in.substr(i, c.bytes), mark ? rules_.byte_order_mark : Bytes::keep, i, "a byte-order mark");
  }
  // The length of the run of ASCII from i on that no rule names.
  static std::size_t ordinary(std::string_view in, std::size_t i) {
    std::size_t end = i + 1;
    while (end < in.size() && in[end] != '\r' && in[end] != 0 && static_cast<unsigned char>(in[end]) < 0x80)
      ++end;
    return end - i;
  }
  std::size_t put(std::string_view bytes, Bytes rule, std::size_t i, const char* what) {
    if (rule == Bytes::refuse)
      reject_file(file_.string(), "byte ", byte_ + static_cast<std::int64_t>(i), " is ", what,
                  utf16(bytes, i) ? ": the file may be UTF-16; convert it to UTF-8"
                                  : ": convert the file, or choose to keep or remove such bytes");
    if (rule == Bytes::keep) out_ += bytes;
    return bytes.size();
  }
  // Whether the file begins with a byte-order mark of UTF-16, or with a character that has a NUL.
  bool utf16(std::string_view bytes, std::size_t i) const {
    return byte_ + static_cast<std::int64_t>(i) < 4 &&
           (bytes[0] == '\xff' || bytes[0] == '\xfe' || !bytes[0]);
  }

  const TextRules& rules_;
  const std::filesystem::path& file_;
  std::string in_, out_;
  std::size_t left_ = 0;       // bytes of in_ that wait
  std::int64_t byte_ = 0;      // of in_[0] in the file
  std::int64_t invalid_ = -1;  // first byte that is not UTF-8 in out_
};

// Reads at most `size` bytes; 0: the end.
inline std::size_t read_some(const file::Descriptor& in, const std::filesystem::path& path, void* to,
                             std::size_t size) {
  for (;;) {
    const ssize_t count = ::read(in.number(), to, size);
    if (count >= 0) return static_cast<std::size_t>(count);
    if (errno != EINTR) file::fail("read", path);
  }
}

}  // namespace detail

// The texts of `files`, one after another, with `separator` between two of them.
struct TextFiles {
  std::vector<std::filesystem::path> files;
  TextRules rules{};
  std::string separator{};
  std::size_t chunk = 1 << 20;  // bytes read at a time

  // f(TextPiece) for all of the text in order; pieces are not empty and valid during the call only.
  // Throws std::runtime_error for a file that cannot be read, or holds what a rule refuses.
  template <class F>
  void read(F&& f) const {
    for (const std::filesystem::path& path : files) {
      if (&path != files.data() && !separator.empty()) f(TextPiece{separator, path, 0});
      file::Descriptor in;
      file::open_regular(in, path);
      detail::TextCleaner cleaner(rules, path);
      for (std::size_t got = 1; got > 0;) {
        got = detail::read_some(in, path, cleaner.chunk_buffer(chunk), chunk);
        const TextPiece piece = cleaner.clean(got);
        if (!piece.text.empty()) f(piece);
      }
    }
  }
};

// What one pass over a text finds.
struct TextSurvey {
  Index bytes = 0;
  Index characters = 0;    // Unicode code points; 0: the text is not UTF-8
  std::string alphabet{};  // the different characters in ascending order, for Tokenizer::characters
  std::string invalid{};   // where the text is not UTF-8: a file and a byte; empty: nowhere
};

// Throws what TextFiles::read throws.
inline TextSurvey survey(const TextFiles& text) {
  TextSurvey found;
  std::vector<bool> occurs(0x110000);
  text.read([&](const TextPiece& piece) {
    found.bytes += std::ssize(piece.text);
    if (piece.invalid >= 0 && found.invalid.empty())
      found.invalid = piece.file.string() + ", byte " + std::to_string(piece.invalid);
    if (!found.invalid.empty()) return;
    utf8::for_each_character(piece.text, [&](char32_t c, std::size_t) {
      occurs[c] = true;
      ++found.characters;
    });
  });
  if (!found.invalid.empty()) found.characters = 0;
  for (char32_t c = 0; c < occurs.size() && found.invalid.empty(); ++c)
    if (occurs[c]) utf8::append(found.alphabet, c);
  return found;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
