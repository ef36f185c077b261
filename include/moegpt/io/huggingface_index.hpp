#pragma once
// model.safetensors.index.json: which file beside it holds each tensor. Untrusted input: read without a
// document, so that it costs little more memory than the text.
#include <moegpt/io/json_document.hpp>
#include <moegpt/io/safetensors_header.hpp>

#include <map>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace huggingface {

struct IndexLimits {
  static constexpr std::size_t bytes = 64 << 20, tensors = 200'000, files = 4096;
};

struct ShardIndex {
  std::vector<std::string> files;
  std::map<std::string, std::size_t> tensors;  // number of the file
};

// Handler of nlohmann's SAX events: {"weight_map": {tensor: file, ...}, anything else}.
class IndexEvents {
 public:
  IndexEvents(const std::string& name, ShardIndex& index) : name_(name), index_(index) {}

  bool null() { return other("null"); }
  bool boolean(bool) { return other("boolean"); }
  bool number_integer(std::int64_t number) { return other(std::to_string(number)); }
  bool number_unsigned(std::uint64_t number) { return other(std::to_string(number)); }
  bool number_float(double, const std::string& text) { return other(text); }
  bool binary(nlohmann::json::binary_t&) { return other("binary"); }
  bool start_array(std::size_t) { return other("array"), enter(); }
  bool end_array() { return leave(); }
  bool end_object() { return leave(); }

  bool start_object(std::size_t) {
    const bool is_map = depth_ == 1 && key_ == "weight_map";
    if (is_map && std::exchange(map_seen_, true)) reject_file(name_, "has \"weight_map\" twice");
    if (depth_ > 0 && !is_map) other("object");
    in_map_ |= is_map;
    return enter();
  }
  bool key(std::string& text) {
    key_ = text;
    return true;
  }
  bool string(std::string& text) {
    if (!is_file()) return other("text");
    if (text.empty() || text.find_first_of(std::string_view("/\\\0", 3)) != text.npos || text == "." ||
        text == "..")
      no_file(shown(text));
    const auto [file, is_new] = numbers_.try_emplace(text, index_.files.size());
    if (is_new) index_.files.push_back(text);
    if (index_.files.size() > IndexLimits::files)
      reject_file(name_, "names more than ", IndexLimits::files, " files");
    if (!index_.tensors.try_emplace(key_, file->second).second)
      reject_file(name_, "has the tensor ", shown(key_), " twice");
    if (index_.tensors.size() > IndexLimits::tensors)
      reject_file(name_, "names more than ", IndexLimits::tensors, " tensors");
    return true;
  }
  template <class Exception>
  bool parse_error(std::size_t, const std::string&, const Exception& error) {
    reject_file(name_, "is not valid JSON: ", shown(error.what(), 200));
  }
  bool map_seen() const { return map_seen_; }

 private:
  bool is_file() const { return in_map_ && depth_ == 2; }
  // A value that is not the name of a file.
  bool other(std::string_view found) {
    if (is_file()) no_file(found);
    if (depth_ == 0) reject_file(name_, "is ", found, ", expected an object");
    if (depth_ == 1 && key_ == "weight_map")
      reject_file(name_, "\"weight_map\" is ", found, ", expected an object");
    return true;
  }
  [[noreturn]] void no_file(std::string_view found) const {
    reject_file(name_, "the file of ", shown(key_), " is ", found,
                ", expected the name of a file beside the index");
  }
  bool enter() {
    if (++depth_ > 4) reject_file(name_, "is JSON of more than 4 levels");
    return true;
  }
  bool leave() {
    if (--depth_ == 1) in_map_ = false;
    return true;
  }

  const std::string& name_;
  ShardIndex& index_;
  std::map<std::string, std::size_t> numbers_;  // of files
  std::string key_;
  int depth_ = 0;
  bool in_map_ = false, map_seen_ = false;
};

// Throws std::runtime_error for text that is not such JSON, and for a file that is not beside the index.
inline ShardIndex parse_index(const std::string& name, std::string_view text) {
  if (text.find('\0') != text.npos) reject_file(name, "has a zero byte");
  ShardIndex index;
  IndexEvents events(name, index);
  nlohmann::json::sax_parse(text.begin(), text.end(), &events);
  if (!events.map_seen()) reject_file(name, "has no member \"weight_map\"");
  return index;
}

}  // namespace huggingface

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
