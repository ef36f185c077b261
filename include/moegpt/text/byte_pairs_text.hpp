#pragma once
// Byte-pair rules as UTF-8 text, line by line, for files:
//   split gpt2            none, gpt2, llama3 or qwen2; then " whole" for whole_pretokens, " nfc" for nfc
//   bytes 256 of 0 ..     ids of the bytes in ascending order, or "bytes gpt2"
//   merges 2
//   12 45                 ids of left and right; a third number is the id, if not that of the line before + 1
//   special 1
//   50256 <|endoftext|>   \\, \n, \r and \t are escaped
//   start 0
#include <moegpt/text/byte_pairs.hpp>

#include <charconv>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace detail {

inline constexpr std::string_view split_names[] = {"none", "gpt2", "llama3", "qwen2"};
inline constexpr std::string_view escaped = "\\\n\r\t", escape_letters = "\\nrt";

inline void append_numbers(std::string& text, std::initializer_list<int> numbers) {
  for (const int number : numbers) {
    if (!text.empty() && text.back() != '\n') text += ' ';
    text += std::to_string(number);
  }
}

class BytePairReader {
 public:
  explicit BytePairReader(std::string_view text) : text_(text) {}

  BytePairRules read() {
    BytePairRules rules;
    std::string_view line = next();
    take_word(line, "split");
    const std::string_view name = word(line);
    const auto* split = std::find(std::begin(split_names), std::end(split_names), name);
    if (split == std::end(split_names)) fail("a split pattern: none, gpt2, llama3 or qwen2", name);
    rules.split = static_cast<Split>(split - split_names);
    rules.whole_pretokens = take_if(line, "whole");
    rules.nfc = take_if(line, "nfc");
    end(line);

    line = next();
    take_word(line, "bytes");
    if (line == "gpt2") {
      rules.bytes = gpt2_byte_ids();
    } else {
      for (int b = 0; b < 256; ++b) rules.bytes.push_back(number(line));
      end(line);
    }
    int last = 255;
    for (int left = count("merges"); left > 0; --left) {
      line = next();
      BytePairRules::Merge merge{number(line), number(line), 0};
      merge.id = line.empty() ? last + 1 : number(line);
      end(line);
      last = merge.id;
      rules.merges.push_back(merge);
    }
    for (int left = count("special"); left > 0; --left) {
      line = next();
      const int id = number(line);
      rules.special.push_back({id, unescaped(line)});
    }
    for (int left = count("start"); left > 0; --left) {
      line = next();
      rules.start.push_back(number(line));
      end(line);
    }
    if (!text_.empty()) fail("the end of the text", text_);
    return rules;
  }

 private:
  [[noreturn]] void fail(std::string_view expected, std::string_view found) const {
    reject("line ", line_, " of the byte pairs of a tokenizer: expected ", expected, ", found '",
           found.substr(0, 40), "'");
  }
  std::string_view next() {
    ++line_;
    const std::size_t end = text_.find('\n');
    if (end == std::string_view::npos) fail("a line", text_.empty() ? "the end of the text" : text_);
    const std::string_view line = text_.substr(0, end);
    text_.remove_prefix(end + 1);
    return line;
  }
  // The next word of a line, and the space behind it, are taken from it.
  static std::string_view word(std::string_view& line) {
    const std::string_view found = line.substr(0, line.find(' '));
    line.remove_prefix(found.size() < line.size() ? found.size() + 1 : found.size());
    return found;
  }
  void take_word(std::string_view& line, std::string_view expected) {
    if (const std::string_view found = word(line); found != expected) fail(expected, found);
  }
  static bool take_if(std::string_view& line, std::string_view expected) {
    if (line.substr(0, line.find(' ')) != expected) return false;
    word(line);
    return true;
  }
  int number(std::string_view& line) {
    const std::string_view found = word(line);
    int value = -1;
    const auto [end, error] = std::from_chars(found.data(), found.data() + found.size(), value);
    if (error != std::errc() || end != found.data() + found.size() || value < 0 ||
        value >= BytePairRules::most_ids)
      fail("a number of an id", found);
    return value;
  }
  void end(std::string_view line) {
    if (!line.empty()) fail("the end of the line", line);
  }
  int count(std::string_view name) {
    std::string_view line = next();
    take_word(line, name);
    const int found = number(line);
    end(line);
    return found;
  }
  std::string unescaped(std::string_view line) {
    std::string text;
    for (std::size_t i = 0; i < line.size(); ++i) {
      if (line[i] != '\\') {
        text += line[i];
        continue;
      }
      const std::size_t which = ++i < line.size() ? escape_letters.find(line[i]) : std::string_view::npos;
      if (which == std::string_view::npos) fail("\\\\, \\n, \\r or \\t", line);
      text += escaped[which];
    }
    return text;
  }

  std::string_view text_;
  int line_ = 0;
};

}  // namespace detail

// std::invalid_argument if the text of a special token is not UTF-8.
inline std::string to_text(const BytePairRules& rules) {
  std::string text = "split ";
  text += detail::split_names[static_cast<std::size_t>(rules.split)];
  if (rules.whole_pretokens) text += " whole";
  if (rules.nfc) text += " nfc";
  text += "\nbytes";
  if (rules.bytes == gpt2_byte_ids())
    text += " gpt2";
  else
    for (const int id : rules.bytes) detail::append_numbers(text, {id});
  text += "\nmerges ";
  text += std::to_string(rules.merges.size());
  text += '\n';
  int last = 255;
  for (const BytePairRules::Merge& merge : rules.merges) {
    detail::append_numbers(text, {merge.left, merge.right});
    if (merge.id != last + 1) detail::append_numbers(text, {merge.id});
    text += '\n';
    last = merge.id;
  }
  text += "special ";
  text += std::to_string(rules.special.size());
  text += '\n';
  for (const BytePairRules::Special& token : rules.special) {
    check(utf8::first_invalid(token.text) == std::string_view::npos, "the text of the special token ",
          token.id, " is not UTF-8");
    text += std::to_string(token.id);
    text += ' ';
    for (const char c : token.text) {
      const std::size_t which = detail::escaped.find(c);
      if (which != std::string_view::npos) text += '\\';
      text += which != std::string_view::npos ? detail::escape_letters[which] : c;
    }
    text += '\n';
  }
  text += "start ";
  text += std::to_string(rules.start.size());
  text += '\n';
  for (const int id : rules.start) {
    text += std::to_string(id);
    text += '\n';
  }
  return text;
}

// The inverse of to_text; std::invalid_argument for anything that it does not write.
inline BytePairRules byte_pairs_from_text(std::string_view text) {
  return detail::BytePairReader(text).read();
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
