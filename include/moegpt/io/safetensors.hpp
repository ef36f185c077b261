#pragma once
// Reads and writes any parameter tree as a safetensors file (github.com/huggingface/safetensors), under the
// paths of its fields(). Reading validates the whole file before it changes the tree.
#include <moegpt/core/fields.hpp>
#include <moegpt/io/file_format.hpp>
#include <moegpt/io/weight_tensors.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct SafetensorsOptions {
  bool check_finite = true;  // reject NaN, infinity and overflow in the type of the weights
  FileFormat format{};
  bool (*only)(std::string_view path) = nullptr;  // leaves out other weights, also of a file; null: all
};

// ---- reading ----

// A tree with a model's run-time constants.
template <class Tree>
concept HasModelOptions =
    requires(Tree& tree) { requires std::same_as<decltype(tree.options), ModelOptions>; };
// An encoder-decoder model. A file holds one set of options, which both parts have.
template <class Tree>
concept HasPartOptions = requires(Tree& tree) { tree.encoder.options = tree.decoder.options; };

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
void check_fit(const std::string& file, TensorInfos rest, const Tree& tree,
               bool (*only)(std::string_view) = nullptr) {
  std::vector<std::string> missing, unexpected, misfits;
  if (only) std::erase_if(rest, [&](const auto& item) { return !only(item.first); });
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& weight) {
        if (only && !only(path)) return;
        const WeightTensors found = tensors_of(rest, path);
        if (!found.numbers) {
          if (!weight.empty()) missing.push_back(shown(path));
          return;
        }
        if (!weight.empty())
          if (std::string text = misfit(path, weight, found); !text.empty()) misfits.push_back(text);
        if (found.scales) rest.erase(scale_of(path));
        rest.erase(path);
      },
      tree);
  for (const auto& [name, tensor] : rest) unexpected.push_back(shown(name) + " " + shown(tensor.shape));
  const std::string text = listed("missing in the file", missing) +
                           listed("unknown to this model", unexpected) + listed("different", misfits);
  if (!text.empty()) reject_file(file, "the tensors are not this model's", text);
}

}  // namespace safetensors

// Sets the weights of `tree` to the tensors of the same paths and shapes; F64, F32, F16, BF16, and I8
// with scales (io/weight_tensors.hpp), are converted to what the tree stores. Empty weights stay empty. A
// model also gets the options of a file that moegpt wrote, because they belong to the weights; to use others,
// change them afterwards. Other metadata, such as the model type, is ignored: see load in io/model_file.hpp.
// Older versions of the format: io/file_format.hpp. Throws std::runtime_error that lists missing or unknown
// tensors and those of another shape or type, or names the first element that is not finite, an unknown
// option, or a newer version. The tree is then unchanged.
//
// The file is read twice, in pieces: first to check every number, then to fill the tree. If another program
// changes the file meanwhile, which save never does, std::runtime_error says so; if it did in the second
// reading, the tree has numbers of both states of the file, all of them finite.
template <HasFields Tree>
void load_safetensors(const SafetensorsFile& file, Tree& tree, SafetensorsOptions options = {}) {
  const Metadata& metadata = file.header.metadata;
  const int version = safetensors::version_of(file.name, metadata, options.format);
  const TensorInfos tensors = safetensors::renamed(file.name, file.header.tensors, version, options.format);
  safetensors::check_fit(file.name, tensors, tree, options.only);
  const auto read = [&](safetensors::Reading how) {
    for_each_named_weight(
        [&](const std::string& path, Kind, auto& weight) {
          if (weight.empty() || (options.only && !options.only(path))) return;
          safetensors::read_weight(file, path, safetensors::tensors_of(tensors, path), weight, how);
        },
        tree);
    file.check_unchanged();
  };
  if (options.check_finite) read({.check_finite = true, .fill = false});
  if constexpr (HasModelOptions<Tree>) {
    ModelOptions found = tree.options;
    safetensors::read_options(file.name, metadata, version, options.format, found);
    tree.options = found;
  }
  if constexpr (HasPartOptions<Tree>) {
    ModelOptions found = tree.decoder.options;
    safetensors::read_options(file.name, metadata, version, options.format, found);
    tree.encoder.options = tree.decoder.options = found;
  }
  read({.check_finite = options.check_finite, .fill = true});
}

template <HasFields Tree>
void load_safetensors(const std::filesystem::path& path, Tree& tree, SafetensorsOptions options = {}) {
  load_safetensors(read_safetensors(path), tree, options);
}

// ---- writing ----

namespace safetensors {

// Sorts the tensors as they will lie in the file and returns the header, padded so that the data is
// 8-aligned.
inline std::string header_text(std::vector<TensorToWrite>& tensors, Metadata metadata,
                               const std::string& file) {
  if (tensors.size() > SafetensorsLimits::tensors)
    reject_file(file, "would have ", tensors.size(), " tensors, expected at most ",
                SafetensorsLimits::tensors, ": readers accept no more");
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    return std::pair(-facts(a.dtype).bits, a.name) < std::pair(-facts(b.dtype).bits, b.name);
  });
  metadata.emplace("format", "pt");  // transformers and accelerate reject or warn without it
  std::string text = "{\"__metadata__\":{";
  for (const auto& [key, value] : metadata)
    (((text += text.back() == '{' ? "" : ",") += json_quoted(key)) += ':') += json_quoted(value);
  text += '}';
  Index position = 0;
  for (const TensorToWrite& tensor : tensors) {
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

// A file that is about to be written: its header, and functions that write its tensors.
struct PreparedSafetensors {
  std::string name;  // for messages
  std::string header;
  std::vector<safetensors::TensorToWrite> tensors;

  // Out: a FileWriter, or another type with write(std::string_view).
  template <class Out>
  void write(Out& out) const {
    const auto to_out = [&](std::string_view bytes) { out.write(bytes); };
    const std::uint64_t header_bytes = header.size();
    out.write({reinterpret_cast<const char*>(&header_bytes), sizeof header_bytes});
    out.write(header);
    for (const safetensors::TensorToWrite& tensor : tensors) tensor.write(safetensors::ByteSink(to_out));
  }
};

namespace safetensors {

inline PreparedSafetensors prepared(std::string name, std::vector<TensorToWrite> tensors,
                                    const Metadata& metadata) {
  check(!tensors.empty(), "no tensor to write to ", name, ", expected at least one");
  std::string header = header_text(tensors, metadata, name);
  return {std::move(name), std::move(header), std::move(tensors)};
}

}  // namespace safetensors

// Orders the tensors by size of element type and name, so that equal tensors give equal bytes. "format": "pt"
// is added to the metadata. The tensors' data must outlive the result. Throws std::invalid_argument if there
// is no tensor or one has no data, std::runtime_error if a name or text is not UTF-8, not unique or too long.
inline PreparedSafetensors prepare_safetensors(std::string name, const std::vector<NamedTensor>& tensors,
                                               const Metadata& metadata = {}) {
  std::vector<safetensors::TensorToWrite> list;
  for (const NamedTensor& tensor : tensors) {
    check(tensor.data || std::count(tensor.shape.begin(), tensor.shape.end(), Index{0}) > 0, "tensor ",
          shown(tensor.name), " of shape ", shown(tensor.shape),
          " has null data: only a shape with a zero may");
    const Index bytes = safetensors::bytes_of(name, tensor.name, {tensor.dtype, tensor.shape, 0, 0});
    list.push_back({tensor.name, tensor.dtype, tensor.shape,
                    [data = static_cast<const char*>(tensor.data), bytes](safetensors::ByteSink out) {
                      out({data, static_cast<std::size_t>(bytes)});
                    }});
  }
  return safetensors::prepared(std::move(name), std::move(list), metadata);
}

// Every weight of `tree` that is not empty, under its path, and in the metadata the format's version and a
// model's options. Nothing is copied, so the tree must outlive the result. Throws std::runtime_error if a
// weight holds NaN or infinity.
template <HasFields Tree>
PreparedSafetensors prepare_safetensors(std::string name, const Tree& tree, Metadata metadata = {},
                                        SafetensorsOptions options = {}) {
  metadata[safetensors::version_key] = std::to_string(options.format.version);
  if constexpr (HasModelOptions<const Tree>) safetensors::write_options(tree.options, metadata);
  if constexpr (HasPartOptions<Tree>) {
    check(tree.encoder.options == tree.decoder.options,
          "the encoder and the decoder have different options: a file holds one set, so give both the same");
    safetensors::write_options(tree.decoder.options, metadata);
  }
  std::vector<safetensors::TensorToWrite> tensors;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& weight) {
        if (weight.empty() || (options.only && !options.only(path))) return;
        if (options.check_finite) safetensors::check_finite(name, path, weight);
        safetensors::add_tensors(path, weight, tensors);
      },
      tree);
  return safetensors::prepared(std::move(name), std::move(tensors), metadata);
}

// Writes tensors atomically (write_file_atomically). Throws what prepare_safetensors throws, and
// std::runtime_error if the file cannot be written.
inline void save_safetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                             const Metadata& metadata = {}) {
  const auto prepared = prepare_safetensors(path.string(), tensors, metadata);
  write_file_atomically(path, [&](FileWriter& out) { prepared.write(out); });
}
// The same with the weights of a tree, in pieces.
template <HasFields Tree>
void save_safetensors(const std::filesystem::path& path, const Tree& tree, Metadata metadata = {},
                      SafetensorsOptions options = {}) {
  const auto prepared = prepare_safetensors(path.string(), tree, std::move(metadata), options);
  write_file_atomically(path, [&](FileWriter& out) { prepared.write(out); });
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
