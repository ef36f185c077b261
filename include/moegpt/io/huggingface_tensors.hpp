#pragma once
// Tensors of a directory in Hugging Face's layout: one file, or shards that an index lists; and where in them
// the numbers of a weight are.
#include <moegpt/io/huggingface_index.hpp>
#include <moegpt/io/huggingface_names.hpp>
#include <moegpt/io/weight_tensors.hpp>

#include <charconv>
#include <filesystem>
#include <map>
#include <set>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace huggingface {

// The tensors of a directory.
class Tensors {
 public:
  struct Found {
    const SafetensorsFile* file;
    const TensorInfo* info;
  };
  explicit Tensors(const std::filesystem::path& directory) : directory_(directory.string()) {
    const auto single = directory / "model.safetensors", index = directory / "model.safetensors.index.json";
    if (std::filesystem::exists(single)) {  // transformers prefers it to shards, too
      files_.push_back(read_safetensors(single));
      for (const auto& [name, info] : files_[0].header.tensors) found_[name] = {&files_[0], &info};
      return;
    }
    if (!std::filesystem::exists(index))
      reject_file(directory_,
                  "has no model.safetensors, and no model.safetensors.index.json that lists its parts",
                  std::filesystem::exists(directory / "pytorch_model.bin")
                      ? ": transformers converts pytorch_model.bin with save_pretrained"
                      : "");
    const std::string name = index.string();
    const ShardIndex shards = parse_index(name, read_file(index, IndexLimits::bytes));
    std::size_t total = 0;
    files_.reserve(shards.files.size());
    for (const std::string& shard : shards.files) {
      if (!std::filesystem::exists(directory / shard))
        reject_file(name, "names the file ", shown(shard), ", which is missing");
      files_.push_back(read_safetensors(directory / shard));
      total += files_.back().header.tensors.size();
      if (total > IndexLimits::tensors)
        reject_file(name, "names files of more than ", IndexLimits::tensors, " tensors");
    }
    for (const auto& [tensor, number] : shards.tensors) {
      const SafetensorsFile& shard = files_[number];
      const auto info = shard.header.tensors.find(tensor);
      if (info == shard.header.tensors.end())
        reject_file(shard.name, "lacks the tensor ", shown(tensor), ", which ", name, " says it has");
      found_[tensor] = {&shard, &info->second};
    }
  }
  Tensors(const Tensors&) = delete;
  Tensors& operator=(const Tensors&) = delete;

  const Found* find(const std::string& name) {
    const auto found = found_.find(name);
    if (found == found_.end()) return nullptr;
    used_.insert(name);
    return &found->second;
  }
  const std::string& directory() const { return directory_; }
  // Names that were no argument of find.
  std::vector<std::string> unused() const {
    std::vector<std::string> names;
    for (const auto& [name, found] : found_)
      if (!used_.contains(name)) names.push_back(name);
    return names;
  }
  // All numbers in them.
  double numbers() const {
    double sum = 0;
    for (const auto& [name, found] : found_)
      sum += static_cast<double>((found.info->end - found.info->begin) * 8 / facts(found.info->dtype).bits);
    return sum;
  }
  // Of most numbers.
  DType dtype() const {
    std::map<DType, Index> bytes;
    for (const auto& [name, found] : found_) bytes[found.info->dtype] += found.info->end - found.info->begin;
    DType most = DType::f32;
    for (const auto& [dtype, count] : bytes)
      if (count > bytes[most]) most = dtype;
    return most;
  }
  void check_unchanged() const {
    for (const SafetensorsFile& file : files_) file.check_unchanged();
  }

 private:
  std::string directory_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, Found> found_;
  std::set<std::string> used_;
};

// A matrix in a tensor: element (i, k) is number begin + i * row_stride + k * column_stride.
struct Source {
  const SafetensorsFile* file = nullptr;
  DType dtype{};
  Index at = 0;  // byte of number 0
  Index begin = 0, row_stride = 0, column_stride = 1;

  Index bytes() const { return facts(dtype).bits / 8; }
  // Rows [rows.count, cols] as reals.
  template <class Real>
  void read(Rows rows, Index cols, Buffer<char>& buffer, Real* to) const {
    const auto copy = [&](Index first, Index count, auto&& put) {
      buffer.resize(count * bytes());
      file->read(at + first * bytes(), buffer.size(), buffer.data());
      for_each_number<Real>(dtype, buffer.data(), count, put);
    };
    if (column_stride == 1)  // rows of the tensor
      for (Index i = 0; i < rows.count; ++i)
        copy(begin + (rows.first + i) * row_stride, cols, [&](Index k, Real x) { to[i * cols + k] = x; });
    else  // columns of the tensor
      for (Index k = 0; k < cols; ++k)
        copy(begin + rows.first * row_stride + k * column_stride, rows.count,
             [&](Index i, Real x) { to[i * cols + k] = x; });
  }
};

// Names that version 5 of transformers has in memory: of the experts of a layer in one tensor, or of
// Granite's. Sets expert and part if the tensor holds several experts.
inline std::string name_in_memory(const Place& place, Index& expert, Part& part) {
  const std::string& name = place.name;
  for (const auto& [stored, in_memory] : {std::pair{".input_linear.weight", ".experts.gate_up_proj"},
                                          {".output_linear.weight", ".experts.down_proj"},
                                          {".router.layer.weight", ".router.weight"}})
    if (name.ends_with(stored))
      return name.substr(0, name.size() - std::string_view(stored).size()) + in_memory;
  const std::string_view marks[] = {".gate_proj.weight", ".up_proj.weight", ".down_proj.weight",
                                    ".w1.weight",        ".w3.weight",      ".w2.weight"};
  const std::size_t begin = name.find(".experts.");
  if (begin == std::string::npos) return {};
  for (std::size_t m = 0; m < std::size(marks); ++m) {
    if (!name.ends_with(marks[m])) continue;
    const std::size_t number = begin + 9, end = name.size() - marks[m].size();
    const auto [stop, error] = std::from_chars(name.data() + number, name.data() + end, expert);
    if (error != std::errc() || stop != name.data() + end) return {};
    part = static_cast<Part>(m % 3);
    std::string fused = name.substr(0, number);
    if (const std::size_t old = fused.find("block_sparse_moe"); old != std::string::npos)
      fused.replace(old, 16, "mlp");
    return fused + (part == Part::down ? "down_proj" : "gate_up_proj");
  }
  return {};
}

// Where the numbers of a weight are. Throws std::runtime_error if its tensor is missing or of another shape.
template <class W>
Source source_of(Tensors& tensors, const Place& place, const W& weight) {
  const auto fail_shape = [&](const std::string& name, const TensorInfo& info, const std::string& expected) {
    reject_file(tensors.directory(), "the tensor ", shown(name), " has shape ", shown(info.shape),
                ", expected ", expected);
  };
  std::vector<Index> expected{weight.shape.begin(), weight.shape.end()};
  const Index rows = weight.rows, cols = weight.cols;
  const Tensors::Found* found = tensors.find(place.name);
  std::string name = place.name;
  if (!found && name.starts_with("transformer.")) found = tensors.find(name = name.substr(12));
  Index expert = place.expert;
  Part part = place.part;
  if (!found) {
    const std::string other = name_in_memory(place, expert, part);
    found = other.empty() ? nullptr : tensors.find(other);
    if (!found) reject_file(tensors.directory(), "has no tensor ", shown(place.name), " ", shown(expected));
    name = other;
  }
  if (expert >= 0) {
    const auto& shape = found->info->shape;
    const Index all = part == Part::down ? rows : 2 * rows;
    if (shape.size() != 3 || expert >= shape[0] || shape[1] != all || shape[2] != cols)
      fail_shape(name, *found->info,
                 "[more than " + std::to_string(expert) + ", " + std::to_string(all) + ", " +
                     std::to_string(cols) + "]");
  }
  const TensorInfo& info = *found->info;
  if (!is_real(info.dtype))
    reject_file(tensors.directory(), "the tensor ", shown(name), " is ", facts(info.dtype).name,
                ", expected F64, F32, F16 or BF16");
  Source source{found->file, info.dtype, info.begin};
  if (expert >= 0) {
    source.row_stride = cols;
    source.begin = expert * info.shape[1] * cols + (part == Part::up ? rows * cols : 0);
    return source;
  }
  // Parts of GPT-2's joined projection of query, key and value.
  const bool joined = place.name.find("c_attn") != std::string::npos;
  Index all = joined && !info.shape.empty() ? info.shape.back() : rows;
  if (weight.shape.size() == 1) {
    all = joined && info.shape.size() == 1 ? info.shape[0] : cols;
    if (info.shape != std::vector<Index>{all} || place.row + cols > all)
      fail_shape(name, info, shown(expected));
    source.begin = place.row;
    source.row_stride = cols;
    return source;
  }
  if (place.transposed) {
    if (info.shape != std::vector<Index>{cols, all} || place.row + rows > all)
      fail_shape(name, info, shown(std::vector<Index>{cols, joined ? place.row + rows : rows}));
    source.begin = place.row;
    source.row_stride = 1, source.column_stride = all;
    return source;
  }
  if (info.shape != expected) fail_shape(name, info, shown(expected));
  source.row_stride = cols;
  return source;
}

// f(first row, rows [count, cols]) for all rows of a weight.
template <class Real, class F>
void for_each_rows(const Source& source, Index rows, Index cols, F&& f) {
  Buffer<char> buffer;
  Buffer<Real> numbers;
  safetensors::for_each_piece(rows, cols * Index{sizeof(Real)}, [&](Rows piece) {
    numbers.resize(piece.count * cols);
    source.read(piece, cols, buffer, numbers.data());
    f(piece, static_cast<const Real*>(numbers.data()));
  });
}

// A head that is stored although it is tied.
inline void check_equal(const std::string& owner, const Source& embedding, const Source& head, Index rows,
                        Index cols) {
  Buffer<char> buffer;
  Buffer<double> numbers;
  for_each_rows<double>(head, rows, cols, [&](Rows piece, const double* of_head) {
    numbers.resize(piece.count * cols);
    embedding.read(piece, cols, buffer, numbers.data());
    if (!std::equal(numbers.begin(), numbers.end(), of_head))
      reject_file(owner,
                  "\"lm_head.weight\" differs from the embedding, but config.json says that they are tied");
  });
}

}  // namespace huggingface

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
