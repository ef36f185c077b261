#pragma once
// The header of a safetensors file: JSON with the type, shape and place of each tensor. Untrusted input,
// fully validated: exactly three levels, unique names, tensors that tile the data.
// Source: the format's README and schema (github.com/huggingface/safetensors) and its Rust reader.
#include <moegpt/io/dtype.hpp>
#include <moegpt/io/file.hpp>
#include <moegpt/io/json.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// One tensor of a file: bytes [begin, end) of its data, row-major.
struct TensorInfo {
  DType dtype = DType::f32;
  std::vector<Index> shape;
  Index begin = 0, end = 0;
};

using Metadata = std::map<std::string, std::string>;
using TensorInfos = std::map<std::string, TensorInfo, std::less<>>;

struct SafetensorsHeader {
  Metadata metadata;
  TensorInfos tensors;
};

// Limits of what a reader accepts, so that a malicious file costs no more memory than its size.
struct SafetensorsLimits {
  static constexpr std::uint64_t header_bytes = 100'000'000;
  static constexpr std::uint64_t integer = (std::uint64_t{1} << 48) - 1;  // the schema's maximum
  static constexpr std::size_t tensors = 100'000, name_bytes = 1024, rank = 8,
                               metadata_bytes = 16'000'000;  // byte pairs of 10^6 merges
};

namespace safetensors {

// Handler of nlohmann's SAX events, which need no recursion. Accepts only what the grammar has at each place:
// { "__metadata__": {text: text}, name: {"dtype": text, "shape": [n...], "data_offsets": [n, n]} }
class HeaderEvents {
 public:
  HeaderEvents(const std::string& file, SafetensorsHeader& header) : file_(file), header_(header) {}

  bool null() { reject("null"); }
  bool boolean(bool) { reject("a boolean"); }
  // Only called for numbers with a minus sign, -0 included.
  bool number_integer(std::int64_t) { reject("a number with a minus sign"); }
  bool number_float(double, const std::string& text) { reject("the number " + shown(text)); }
  bool binary(nlohmann::json::binary_t&) { reject("binary data"); }

  bool number_unsigned(std::uint64_t number) {
    if (place_ != Place::numbers) reject("the number " + std::to_string(number));
    if (number > SafetensorsLimits::integer) fail("is ", number, ", expected at most 2^48 - 1");
    if (numbers_->size() == number_limit()) fail("has more than ", number_limit(), " numbers");
    numbers_->push_back(static_cast<Index>(number));
    return true;
  }

  bool string(std::string& text) {
    if (place_ == Place::metadata) {
      count_metadata(text);
      header_.metadata[key_] = text;
    } else if (place_ == Place::tensor && key_ == "dtype") {
      read_dtype(text);
    } else {
      reject("the text " + shown(text));
    }
    return true;
  }

  bool start_object(std::size_t) {
    if (place_ == Place::outside) return enter(Place::header);  // the only event there: see '{' below
    if (place_ != Place::header) reject("an object");
    if (name_ == "__metadata__") return enter(Place::metadata);
    if (header_.tensors.size() == SafetensorsLimits::tensors)
      reject_file(file_, "has more than ", SafetensorsLimits::tensors, " tensors");
    tensor_ = &header_.tensors[name_];
    dtype_seen_ = shape_seen_ = offsets_seen_ = false;
    return enter(Place::tensor);
  }

  bool end_object() {
    if (place_ == Place::tensor) {
      key_.clear();
      if (!dtype_seen_) fail("has no dtype");
      if (!shape_seen_) fail("has no shape");
      if (!offsets_seen_) fail("has no data_offsets");
    }
    return enter(Place::header);
  }

  bool start_array(std::size_t) {
    if (place_ != Place::tensor || key_ == "dtype") reject("an array");
    numbers_ = key_ == "shape" ? &tensor_->shape : &offsets_;
    numbers_->clear();
    return enter(Place::numbers);
  }

  bool end_array() {
    if (numbers_ == &offsets_) {
      if (offsets_.size() != 2) fail("has ", offsets_.size(), " numbers, expected 2: begin and end");
      tensor_->begin = offsets_[0];
      tensor_->end = offsets_[1];
    }
    return enter(Place::tensor);
  }

  bool key(std::string& text) {
    if (place_ == Place::header) {
      name_ = text;
      key_.clear();
      const bool is_metadata = text == "__metadata__";
      if (is_metadata ? std::exchange(metadata_seen_, true) : header_.tensors.contains(text))
        fail("occurs twice");
      if (text.size() > SafetensorsLimits::name_bytes)
        fail("has a name of ", text.size(), " bytes, expected at most ", SafetensorsLimits::name_bytes);
    } else if (place_ == Place::metadata) {
      key_ = text;
      if (header_.metadata.contains(text)) fail("occurs twice");
      count_metadata(text);
    } else {
      read_field_name(text);
    }
    return true;
  }

  template <class Exception>
  bool parse_error(std::size_t position, const std::string&, const Exception& error) {
    const std::string_view text = error.what();
    const std::size_t reason = text.find("syntax error");
    reject_file(file_, "the header is not valid JSON at its byte ", position, ": ",
                shown(text.substr(reason == text.npos ? 0 : reason), 200));
  }

 private:
  enum class Place { outside, header, metadata, tensor, numbers };

  bool enter(Place place) {
    place_ = place;
    return true;
  }
  std::size_t number_limit() const { return numbers_ == &offsets_ ? 2 : SafetensorsLimits::rank; }

  void read_field_name(const std::string& text) {
    key_ = text;
    bool* seen = text == "dtype" ? &dtype_seen_ : text == "shape" ? &shape_seen_ : nullptr;
    if (text == "data_offsets") seen = &offsets_seen_;
    if (seen == nullptr) fail("is unknown, expected dtype, shape and data_offsets");
    if (std::exchange(*seen, true)) fail("occurs twice");
  }

  void read_dtype(const std::string& text) {
    for (std::size_t i = 0; i < dtype_facts.size(); ++i) {
      if (dtype_facts[i].name != text) continue;
      tensor_->dtype = static_cast<DType>(i);
      return;
    }
    std::string known;
    for (const DTypeFacts& dtype : dtype_facts) (known += known.empty() ? "" : ", ") += dtype.name;
    fail("is ", shown(text), ", expected one of ", known);
  }

  void count_metadata(const std::string& text) {
    metadata_bytes_ += text.size();
    if (metadata_bytes_ > SafetensorsLimits::metadata_bytes)
      reject_file(file_, "__metadata__ has more than ", SafetensorsLimits::metadata_bytes, " bytes");
  }

  std::string expected() const {
    if (place_ == Place::header) return "an object";
    if (place_ == Place::metadata || (place_ == Place::tensor && key_ == "dtype")) return "a text";
    return place_ == Place::tensor ? "an array" : "a whole number written in digits";
  }
  [[noreturn]] void reject(const std::string& found) const {
    fail("is or holds ", found, ", expected ", expected());
  }

  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    const std::string owner = name_ == "__metadata__" ? name_ : "tensor " + shown(name_);
    reject_file(file_, owner, key_.empty() ? "" : ": ", key_.empty() ? "" : shown(key_), " ", parts...);
  }

  const std::string& file_;
  SafetensorsHeader& header_;
  Place place_ = Place::outside;
  std::string name_, key_;  // of the tensor, and of the field in it
  TensorInfo* tensor_ = nullptr;
  std::vector<Index>* numbers_ = nullptr;
  std::vector<Index> offsets_;
  bool dtype_seen_ = false, shape_seen_ = false, offsets_seen_ = false, metadata_seen_ = false;
  std::size_t metadata_bytes_ = 0;
};

// Size by dtype and shape. Throws if it does not fit 63 bits or ends inside a byte.
inline Index bytes_of(const std::string& file, const std::string& name, const TensorInfo& tensor) {
  std::int64_t bits = facts(tensor.dtype).bits;
  for (const Index extent : tensor.shape)
    if (__builtin_mul_overflow(bits, extent, &bits))
      reject_file(file, "tensor ", shown(name), ": shape ", shown(tensor.shape), " overflows");
  if (bits % 8 != 0)
    reject_file(file, "tensor ", shown(name), ": shape ", shown(tensor.shape), " ends inside a byte");
  return bits / 8;
}

// Throws unless the tensors cover the data without holes or overlaps.
inline void check_layout(const std::string& file, const SafetensorsHeader& header, Index data_bytes) {
  using Entry = std::pair<const std::string, TensorInfo>;
  std::vector<const Entry*> by_offset;
  for (const Entry& entry : header.tensors) by_offset.push_back(&entry);
  std::sort(by_offset.begin(), by_offset.end(), [](const Entry* a, const Entry* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  Index position = 0;
  for (const Entry* entry : by_offset) {
    const auto& [name, tensor] = *entry;
    const Index bytes = bytes_of(file, name, tensor);
    if (tensor.end - tensor.begin != bytes)
      reject_file(file, "tensor ", shown(name), ": data_offsets ", tensor.begin, " to ", tensor.end,
                  ", expected ", bytes, " bytes for ", facts(tensor.dtype).name, " ", shown(tensor.shape));
    if (tensor.begin != position)
      reject_file(file, "tensor ", shown(name), " begins at byte ", tensor.begin, " of the data, expected ",
                  position, tensor.begin > position ? ": a hole before it" : ": it overlaps another");
    position = tensor.end;
  }
  if (position != data_bytes)
    reject_file(file, "the tensors end at byte ", position, " of the data, which has ", data_bytes, " bytes",
                position > data_bytes ? ": the file is cut off; copy it again" : "");
}

}  // namespace safetensors

// Parses the header and validates it for `data_bytes` bytes of data. `file` is the name in messages. Throws
// std::runtime_error with the tensor, the field, what was found and what was expected.
inline SafetensorsHeader parse_safetensors_header(std::string_view text, Index data_bytes,
                                                  const std::string& file) {
  if (text.empty() || text[0] != '{') reject_file(file, "the header does not begin with '{'");
  // The JSON parser would stop at a zero byte.
  if (const std::size_t at = text.find('\0'); at != text.npos)
    reject_file(file, "the header has a zero byte at its byte ", at);
  SafetensorsHeader header;
  safetensors::HeaderEvents events{file, header};
  nlohmann::json::sax_parse(text.begin(), text.end(), &events);
  safetensors::check_layout(file, header, data_bytes);
  return header;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
