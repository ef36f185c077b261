#pragma once
// Reads and writes any parameter tree as a safetensors file (github.com/huggingface/safetensors), under the
// paths of its fields(). Reading validates the whole file before it changes the tree.
#include <moegpt/core/fields.hpp>
#include <moegpt/io/file_format.hpp>
#include <moegpt/io/weight_tensors.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// A file in memory, validated.
struct SafetensorsFile {
  std::string name;   // for messages
  std::string bytes;  // of the whole file
  Index data_at = 0;  // offset of the data in bytes
  SafetensorsHeader header;

  const char* data(const TensorInfo& tensor) const { return bytes.data() + data_at + tensor.begin; }
};

struct SafetensorsOptions {
  bool check_finite = true;  // reject NaN, infinity and overflow in the type of the weights
  FileFormat format{};
};

// ---- reading ----

// Validates the bytes of a whole file. Throws std::runtime_error whose message contains `name`.
inline SafetensorsFile parse_safetensors(std::string bytes, std::string name) {
  SafetensorsFile file{std::move(name), std::move(bytes), 0, {}};
  const std::size_t size = file.bytes.size();
  if (size < 8) reject_file(file.name, "has ", size, " bytes, expected at least 8: not a safetensors file");
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.bytes.data(), sizeof header_bytes);
  if (header_bytes > SafetensorsLimits::header_bytes)
    reject_file(file.name, "announces a header of ", header_bytes, " bytes, expected at most ",
                SafetensorsLimits::header_bytes, ": not a safetensors file");
  if (header_bytes > size - 8)
    reject_file(file.name, "announces a header of ", header_bytes, " bytes, but only ", size - 8,
                " follow: cut short or not a safetensors file");
  file.data_at = static_cast<Index>(8 + header_bytes);
  file.header = parse_safetensors_header(std::string_view(file.bytes).substr(8, header_bytes),
                                         static_cast<Index>(size) - file.data_at, file.name);
  return file;
}

// Reads and validates a file. Throws std::runtime_error with the file's name, what was found and what was
// expected.
inline SafetensorsFile read_safetensors(const std::filesystem::path& path) {
  return parse_safetensors(read_file(path), path.string());
}

// A tree with a model's run-time constants.
template <class Tree>
concept HasModelOptions =
    requires(Tree& tree) { requires std::same_as<decltype(tree.options), ModelOptions>; };

namespace safetensors {

// "; what: a, b, c and 4 more"; empty for no items.
inline std::string listed(std::string_view what, const std::vector<std::string>& items) {
  constexpr std::size_t limit = 3;
  std::string text;
  for (std::size_t i = 0; i < items.size() && i < limit; ++i)
    text += (i > 0 ? ", " : "; " + std::string(what) + ": ") + items[i];
  if (items.size() > limit) text += " and " + std::to_string(items.size() - limit) + " more";
  return text;
}

// Throws unless names, shapes and types match the tree.
template <class Tree>
void check_fit(const std::string& file, TensorInfos rest, const Tree& tree) {
  std::vector<std::string> missing, unexpected, misfits;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& weight) {
        const auto found = rest.find(path);
        if (found == rest.end()) {
          if (!weight.empty()) missing.push_back(shown(path));
          return;
        }
        const TensorInfo* scales = scales_in(rest, path);
        if (!weight.empty())
          if (std::string text = misfit(path, weight, found->second, scales); !text.empty())
            misfits.push_back(text);
        if (scales) rest.erase(scale_of(path));
        rest.erase(found);
      },
      tree);
  for (const auto& [name, tensor] : rest) unexpected.push_back(shown(name) + " " + shown(tensor.shape));
  const std::string text = listed("missing in the file", missing) +
                           listed("unknown to this model", unexpected) + listed("different", misfits);
  if (!text.empty()) reject_file(file, "the tensors are not this model's", text);
}

// The bytes of a weight in a file that fits.
inline WeightBytes bytes_in(const SafetensorsFile& file, const TensorInfos& tensors,
                            const std::string& path) {
  const TensorInfo& tensor = tensors.find(path)->second;
  const TensorInfo* scales = scales_in(tensors, path);
  return {tensor.dtype, file.data(tensor), scales ? file.data(*scales) : nullptr};
}

}  // namespace safetensors

// Sets the weights of `tree` to the tensors of the same paths and shapes; F64, F32, F16, BF16, and I8
// with scales (io/weight_tensors.hpp), are converted to what the tree stores. Empty weights stay empty. A
// model also gets the options of a file that moegpt wrote, because they belong to the weights; to use others,
// change them afterwards. Other metadata, such as the model type, is ignored: see load in io/model_file.hpp.
// Older versions of the format: io/file_format.hpp. Throws std::runtime_error that lists missing or unknown
// tensors and those of another shape or type, or names the first element that is not finite, an unknown
// option, or a newer version. The tree is then unchanged.
template <HasFields Tree>
void load_safetensors(const SafetensorsFile& file, Tree& tree, SafetensorsOptions options = {}) {
  const Metadata& metadata = file.header.metadata;
  const int version = safetensors::version_of(file.name, metadata, options.format);
  const TensorInfos tensors = safetensors::renamed(file.name, file.header.tensors, version, options.format);
  safetensors::check_fit(file.name, tensors, tree);
  if (options.check_finite)
    for_each_named_weight(
        [&](const std::string& path, Kind, const auto& weight) {
          if (weight.empty()) return;
          safetensors::check_finite(file.name, path, weight, safetensors::bytes_in(file, tensors, path));
        },
        std::as_const(tree));
  if constexpr (HasModelOptions<Tree>) {
    ModelOptions read = tree.options;
    safetensors::read_options(file.name, metadata, version, options.format, read);
    tree.options = read;
  }
  for_each_named_weight(
      [&](const std::string& path, Kind, auto& weight) {
        if (!weight.empty()) safetensors::read_weight(weight, safetensors::bytes_in(file, tensors, path));
      },
      tree);
}

template <HasFields Tree>
void load_safetensors(const std::filesystem::path& path, Tree& tree, SafetensorsOptions options = {}) {
  load_safetensors(read_safetensors(path), tree, options);
}

// ---- writing ----

namespace safetensors {

// Sorts the tensors as they will lie in the file and returns the header, padded so that the data is
// 8-aligned.
inline std::string header_text(std::vector<NamedTensor>& tensors, Metadata metadata,
                               const std::string& file) {
  std::sort(tensors.begin(), tensors.end(), [](const NamedTensor& a, const NamedTensor& b) {
    return std::pair(-facts(a.dtype).bits, a.name) < std::pair(-facts(b.dtype).bits, b.name);
  });
  metadata.emplace("format", "pt");  // transformers and accelerate reject or warn without it
  std::string text = "{\"__metadata__\":{";
  for (const auto& [key, value] : metadata)
    (((text += text.back() == '{' ? "" : ",") += json_quoted(key)) += ':') += json_quoted(value);
  text += '}';
  Index position = 0;
  for (const NamedTensor& tensor : tensors) {
    TensorInfo info{tensor.dtype, tensor.shape, position, position};
    info.end += bytes_of(file, tensor.name, info);
    (text += ',') += json_quoted(tensor.name);
    ((text += ":{\"dtype\":\"") += facts(info.dtype).name) += "\",\"shape\":[";
    for (const Index extent : info.shape) (text += text.back() == '[' ? "" : ",") += std::to_string(extent);
    text += "],\"data_offsets\":[" + std::to_string(info.begin) + "," + std::to_string(info.end) + "]}";
    position = info.end;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > SafetensorsLimits::header_bytes) reject_file(file, "the header would be too large");
  parse_safetensors_header(text, position, file);  // what is written can be read
  return text;
}

}  // namespace safetensors

// A file that is about to be written: its header, and the tensors where they lie in memory.
struct PreparedSafetensors {
  std::string name;  // for messages
  std::string header;
  std::vector<NamedTensor> tensors;

  // Out: a FileWriter, or another type with write(std::string_view).
  template <class Out>
  void write(Out& out) const {
    const std::uint64_t header_bytes = header.size();
    out.write({reinterpret_cast<const char*>(&header_bytes), sizeof header_bytes});
    out.write(header);
    for (const NamedTensor& tensor : tensors) {
      const Index bytes = safetensors::bytes_of(name, tensor.name, {tensor.dtype, tensor.shape, 0, 0});
      out.write({static_cast<const char*>(tensor.data), static_cast<std::size_t>(bytes)});
    }
  }
};

// Orders the tensors by size of element type and name, so that equal tensors give equal bytes. "format": "pt"
// is added to the metadata. Throws std::invalid_argument if there is no tensor or one has no data,
// std::runtime_error if a name or text is not UTF-8, not unique or too long.
inline PreparedSafetensors prepare_safetensors(std::string name, std::vector<NamedTensor> tensors,
                                               const Metadata& metadata = {}) {
  check(!tensors.empty(), "no tensor to write to ", name, ", expected at least one");
  for (const NamedTensor& tensor : tensors)
    check(tensor.data || std::count(tensor.shape.begin(), tensor.shape.end(), Index{0}) > 0, "tensor ",
          shown(tensor.name), " of shape ", shown(tensor.shape),
          " has null data: only a shape with a zero may");
  std::string header = safetensors::header_text(tensors, metadata, name);
  return {std::move(name), std::move(header), std::move(tensors)};
}

// Every weight of `tree` that is not empty, under its path, and in the metadata the format's version and a
// model's options. Nothing is copied, so the tree must outlive the result. Throws std::runtime_error if a
// weight holds NaN or infinity.
template <HasFields Tree>
PreparedSafetensors prepare_safetensors(std::string name, const Tree& tree, Metadata metadata = {},
                                        SafetensorsOptions options = {}) {
  metadata[safetensors::version_key] = std::to_string(options.format.version);
  if constexpr (HasModelOptions<const Tree>) safetensors::write_options(tree.options, metadata);
  std::vector<NamedTensor> tensors;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& weight) {
        if (weight.empty()) return;
        if (options.check_finite)
          safetensors::check_finite(name, path, weight, safetensors::bytes_of_weight(weight));
        safetensors::add_tensors(path, weight, tensors);
      },
      tree);
  return prepare_safetensors(std::move(name), std::move(tensors), metadata);
}

// Writes tensors atomically (write_file_atomically). Throws what prepare_safetensors throws, and
// std::runtime_error if the file cannot be written.
inline void save_safetensors(const std::filesystem::path& path, std::vector<NamedTensor> tensors,
                             const Metadata& metadata = {}) {
  const auto prepared = prepare_safetensors(path.string(), std::move(tensors), metadata);
  write_file_atomically(path, [&](FileWriter& out) { prepared.write(out); });
}
// The same with the weights of a tree.
template <HasFields Tree>
void save_safetensors(const std::filesystem::path& path, const Tree& tree, Metadata metadata = {},
                      SafetensorsOptions options = {}) {
  const auto prepared = prepare_safetensors(path.string(), tree, std::move(metadata), options);
  write_file_atomically(path, [&](FileWriter& out) { prepared.write(out); });
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
