#pragma once
// Models in Hugging Face's layout: a directory with config.json, and model.safetensors or shards that
// model.safetensors.index.json lists. Tensors are read and written in pieces.
#include <moegpt/io/huggingface_config.hpp>
#include <moegpt/io/tokenizer_file.hpp>

#include <optional>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace huggingface {

// Names of weights: ours, and theirs. `*` stands for the number of an expert.
struct Name {
  std::string_view ours, theirs;
};
inline constexpr Name llama_names[] = {
    {"norm1.weight", "input_layernorm.weight"},
    {"norm2.weight", "post_attention_layernorm.weight"},
    {"attention.query", "self_attn.q_proj"},
    {"attention.key", "self_attn.k_proj"},
    {"attention.value", "self_attn.v_proj"},
    {"attention.output", "self_attn.o_proj"},
    {"ffn.gate", "mlp.gate_proj"},
    {"ffn.up", "mlp.up_proj"},
    {"ffn.down", "mlp.down_proj"},
    {"moe.router.gate.weight", "mlp.gate.weight"},
    {"moe.experts.*.gate", "mlp.experts.*.gate_proj"},
    {"moe.experts.*.up", "mlp.experts.*.up_proj"},
    {"moe.experts.*.down", "mlp.experts.*.down_proj"},
    {"moe.shared.gate", "mlp.shared_expert.gate_proj"},
    {"moe.shared.up", "mlp.shared_expert.up_proj"},
    {"moe.shared.down", "mlp.shared_expert.down_proj"},
    {"moe.shared_gate.weight", "mlp.shared_expert_gate.weight"},
};
inline constexpr Name mixtral_names[] = {
    {"moe.router.gate.weight", "block_sparse_moe.gate.weight"},
    {"moe.experts.*.gate", "block_sparse_moe.experts.*.w1"},
    {"moe.experts.*.up", "block_sparse_moe.experts.*.w3"},
    {"moe.experts.*.down", "block_sparse_moe.experts.*.w2"},
};
inline constexpr Name gpt2_names[] = {
    {"norm1", "ln_1"},      {"norm2", "ln_2"},          {"attention.output", "attn.c_proj"},
    {"ffn.up", "mlp.c_fc"}, {"ffn.down", "mlp.c_proj"},
};
// Weights outside of blocks.
inline constexpr Name llama_ends[] = {{"token_embedding.weight", "model.embed_tokens.weight"},
                                      {"norm.weight", "model.norm.weight"},
                                      {"head.weight", "lm_head.weight"}};
inline constexpr Name gpt2_ends[] = {{"token_embedding.weight", "transformer.wte.weight"},
                                     {"position_embedding.weight", "transformer.wpe.weight"},
                                     {"norm", "transformer.ln_f"},
                                     {"head.weight", "lm_head.weight"}};

// Whether `path` is the pattern or continues it with a member: then the result of the same in `theirs`.
inline std::optional<std::string> renamed(std::string_view path, const Name& name) {
  std::string result(name.theirs);
  std::size_t at = 0;
  for (std::size_t i = 0; i < name.ours.size(); ++i) {
    if (name.ours[i] != '*') {
      if (at == path.size() || path[at++] != name.ours[i]) return std::nullopt;
      continue;
    }
    const std::size_t begin = at;
    while (at < path.size() && path[at] >= '0' && path[at] <= '9') ++at;
    result.replace(result.find('*'), 1, path.substr(begin, at - begin));
  }
  if (at < path.size() && path[at] != '.') return std::nullopt;
  return result.append(path.substr(at));
}

// The tensor that holds a weight, or a part of it: rows begin at `row`, and columns, if it is stored [in,
// out].
struct Place {
  std::string name;
  bool transposed = false;
  Index row = 0;  // of the weight's first row in the tensor
};

template <std::size_t N>
std::optional<std::string> find_name(std::string_view path, const Name (&names)[N]) {
  for (const Name& name : names)
    if (auto found = renamed(path, name)) return found;
  return std::nullopt;
}

// Of the weight at `path`; std::runtime_error if the family has no name for it.
inline Place place_of(const std::string& family, const std::string& path, const Config& c) {
  const bool gpt2 = family == "gpt2";
  std::optional<std::string> name;
  std::string_view rest = path;
  Place place;
  if (rest.substr(0, 7) == "blocks.") {
    rest.remove_prefix(7);
    const std::size_t dot = std::min(rest.find('.'), rest.size() - 1);
    std::string layer = gpt2 ? "transformer.h." : "model.layers.";
    layer.append(rest.substr(0, dot + 1));
    rest.remove_prefix(dot + 1);
    const bool is_weight = rest.ends_with(".weight");
    if (gpt2) {
      name = find_name(rest, gpt2_names);
      place.transposed = is_weight && name && rest.substr(0, 4) != "norm";
      const Index kv = Index{c.attention().key_value_heads()} * c.attention().width();
      const std::pair<std::string_view, Index> projections[] = {
          {"attention.query", 0},
          {"attention.key", Index{c.heads} * c.attention().width()},
          {"attention.value", Index{c.heads} * c.attention().width() + kv}};
      for (const auto& [ours, row] : projections)
        if (auto found = renamed(rest, {ours, "attn.c_attn"}))
          name = found, place.transposed = is_weight, place.row = row;
    } else {
      if (family == "mixtral") name = find_name(rest, mixtral_names);
      if (!name) name = find_name(rest, llama_names);
    }
    if (name) name->insert(0, layer);
  } else {
    name = gpt2 ? find_name(rest, gpt2_ends) : find_name(rest, llama_ends);
  }
  check(name.has_value(), "the weight ", shown(path), " has no name in ", family, "'s checkpoints");
  place.name = std::move(*name);
  return place;
}

// The tensors of a directory.
class Tensors {
 public:
  struct Found {
    const SafetensorsFile* file;
    const TensorInfo* info;
  };
  explicit Tensors(const std::filesystem::path& directory) : directory_(directory.string()) {
    const auto index = directory / "model.safetensors.index.json";
    if (!std::filesystem::exists(index)) {
      files_.push_back(read_safetensors(directory / "model.safetensors"));
      for (const auto& [name, info] : files_[0].header.tensors) found_[name] = {&files_[0], &info};
      return;
    }
    const std::string name = index.string();
    const nlohmann::json json = parse_json(name, read_file(index, 64 << 20), 4);
    const nlohmann::json& map = JsonObject(name, json).at("weight_map");
    if (!map.is_object()) reject_file(name, "\"weight_map\" is ", map.type_name(), ", expected an object");
    std::map<std::string, std::size_t> numbers;
    for (const auto& [tensor, file] : map.items()) {
      const std::string shard = file.is_string() ? file.get<std::string>() : "";
      if (shard.empty() || shard.find('/') != std::string::npos || shard.find('\\') != std::string::npos ||
          shard.find('\0') != std::string::npos || shard == ".." || shard == ".")
        reject_file(name, "the file of ", shown(tensor), " is ", shown(file.dump()),
                    ", expected the name of a file beside the index");
      numbers.try_emplace(shard, numbers.size());
      if (numbers.size() > 4096) reject_file(name, "names more than 4096 files");
    }
    files_.reserve(numbers.size());
    std::vector<std::string> shards(numbers.size());
    for (const auto& [shard, number] : numbers) shards[number] = shard;
    for (const std::string& shard : shards) files_.push_back(read_safetensors(directory / shard));
    for (const auto& [tensor, file] : map.items()) {
      const SafetensorsFile& shard = files_[numbers[file.get<std::string>()]];
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
  // Tensors that nobody asked for.
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

inline std::string fused_name(const std::string& name, Index& expert, Index& half) {
  const std::string_view marks[] = {".gate_proj.weight", ".up_proj.weight", ".down_proj.weight",
                                    ".w1.weight",        ".w3.weight",      ".w2.weight"};
  const std::size_t begin = name.find(".experts.");
  if (begin == std::string::npos) return {};
  for (std::size_t m = 0; m < std::size(marks); ++m) {
    if (!name.ends_with(marks[m])) continue;
    const std::size_t number = begin + 9, end = name.size() - marks[m].size();
    const auto [stop, error] = std::from_chars(name.data() + number, name.data() + end, expert);
    if (error != std::errc() || stop != name.data() + end) return {};
    half = static_cast<Index>(m % 3);
    std::string fused = name.substr(0, number);
    if (const std::size_t old = fused.find("block_sparse_moe"); old != std::string::npos)
      fused.replace(old, 16, "mlp");
    return fused + (half == 2 ? "down_proj" : "gate_up_proj");
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
  Index expert = 0, half = 0;
  if (!found) {
    const std::string fused = fused_name(place.name, expert, half);
    found = fused.empty() ? nullptr : tensors.find(fused);
    if (!found) reject_file(tensors.directory(), "has no tensor ", shown(place.name), " ", shown(expected));
    const auto& shape = found->info->shape;
    const Index all = half == 2 ? rows : 2 * rows;
    if (shape.size() != 3 || expert >= shape[0] || shape[1] != all || shape[2] != cols)
      fail_shape(fused, *found->info,
                 "[more than " + std::to_string(expert) + ", " + std::to_string(all) + ", " +
                     std::to_string(cols) + "]");
    name = fused;
  }
  const TensorInfo& info = *found->info;
  if (!is_real(info.dtype))
    reject_file(tensors.directory(), "the tensor ", shown(name), " is ", facts(info.dtype).name,
                ", expected F64, F32, F16 or BF16");
  Source source{found->file, info.dtype, info.begin};
  if (info.shape.size() == 3 && weight.shape.size() == 2) {
    source.row_stride = cols;
    source.begin = expert * info.shape[1] * cols + (half == 1 ? rows * cols : 0);
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

inline bool is_known_buffer(const std::string& name) {
  for (const std::string_view end : {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"})
    if (name.ends_with(end)) return true;
  return false;
}

}  // namespace huggingface

// Sets the weights and options of a model to those of a directory. Tensors of F64, F32, F16 and BF16 are
// converted to the model's storage. A second copy of a tied head is compared with the embedding. Returns what
// config.json says. Throws std::invalid_argument if it states another model type, std::runtime_error for an
// invalid file, a tensor that is missing, not known or of another shape, and a number that is not finite. All
// names and shapes are checked before the model is changed, and the numbers with them.
template <class Model>
HuggingFaceModel load_huggingface(const std::filesystem::path& directory, Model& model) {
  using namespace huggingface;
  HuggingFaceModel described = read_huggingface_config(directory);
  check(described.type() == to_text<Model>(), directory.string(), " describes a ",
        shown(described.type(), 1000), ", this program is compiled for a '", to_text<Model>(),
        "': ", shown(detail::type_difference(described.type(), to_text<Model>()), 1000));
  Tensors tensors(directory);
  std::vector<Source> sources;
  for_each_named_weight(
      [&](const std::string& path, Kind, auto& weight) {
        if (weight.empty()) return;
        sources.push_back(source_of(tensors, place_of(described.family, path, Model::config), weight));
        if (Model::config.tied && path == "token_embedding.weight" && tensors.find("lm_head.weight"))
          check_equal(directory.string(), sources.back(), source_of(tensors, {"lm_head.weight"}, weight),
                      weight.rows, weight.cols);
      },
      model);
  std::vector<std::string> unknown;
  for (const std::string& name : tensors.unused())
    if (!is_known_buffer(name)) unknown.push_back(shown(name));
  if (!unknown.empty())
    reject_file(directory.string(), "has tensors that the model lacks",
                safetensors::listed("unknown", unknown));
  for (const bool fill : {false, true}) {
    std::size_t next = 0;
    for_each_named_weight(
        [&](const std::string& path, Kind, auto& weight) {
          if (weight.empty()) return;
          using S = typename std::remove_reference_t<decltype(weight)>::Scalar;
          for_each_rows<Widened<S>>(
              sources[next++], weight.rows, weight.cols, [&](Rows rows, const Widened<S>* numbers) {
                if (!fill)
                  return safetensors::check_finite<S>(directory.string(), path, numbers,
                                                      rows.count * weight.cols, rows.first * weight.cols);
                for (Index i = 0; i < rows.count; ++i)
                  write_row(weight.view(), rows.first + i, numbers + i * weight.cols);
              });
        },
        model);
    tensors.check_unchanged();
  }
  model.options = described.options;
  return described;
}

struct HuggingFaceOptions {
  DType dtype = DType::f32;                  // or bf16 or f64
  std::int64_t shard_bytes = 5'000'000'000;  // of tensors in a file, at most, unless one is larger
};

namespace huggingface {

// A tensor that is made of one or more weights.
struct Export {
  DType dtype;
  bool transposed = false;
  Index rows = 0, cols = 0;  // of all weights, below one another
  std::vector<Index> shape{};
  struct Part {
    Index row, rows;
    std::function<void(Index, double*)> read;
  };
  std::vector<Part> parts{};

  void read_row(Index row, double* to) const {
    for (const Part& part : parts)
      if (row >= part.row && row < part.row + part.rows) return part.read(row - part.row, to);
  }
  template <class Number>
  void write_as(safetensors::ByteSink out) const {
    Buffer<double> row(cols);
    if (!transposed)
      return safetensors::write_rows<Number>(out, rows, cols, [&](Index i, Number* to) {
        read_row(i, row.data());
        for (Index k = 0; k < cols; ++k) to[k] = Number(static_cast<float_of<Number>>(row[k]));
      });
    // Pieces of columns, which are rows of the file.
    Buffer<Number> numbers;
    safetensors::for_each_piece(cols, rows * Index{sizeof(Number)}, [&](Rows piece) {
      numbers.resize(piece.count * rows);
      for (Index i = 0; i < rows; ++i) {
        read_row(i, row.data());
        for (Index k = 0; k < piece.count; ++k)
          numbers[k * rows + i] = Number(static_cast<float_of<Number>>(row[piece.first + k]));
      }
      out({reinterpret_cast<const char*>(numbers.data()), moegpt::bytes_of<Number>(numbers.size())});
    });
  }
  void write(safetensors::ByteSink out) const {
    if (dtype == DType::f64) return write_as<double>(out);
    if (dtype == DType::bf16) return write_as<BF16>(out);
    write_as<float>(out);
  }

 private:
  template <class Number>
  using float_of = std::conditional_t<std::is_same_v<Number, double>, double, float>;
};

template <class Tree>
std::vector<safetensors::TensorToWrite> exports_of(const std::string& family, const Config& config,
                                                   const Tree& tree, const std::string& directory,
                                                   DType dtype) {
  check(dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f64,
        "tensors are written as F32, BF16 or F64");
  std::map<std::string, Export> all;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& weight) {
        if (weight.empty()) return;
        safetensors::check_finite(directory, path, weight);
        const Place place = place_of(family, path, config);
        Export& to = all[place.name];
        using S = typename std::remove_reference_t<decltype(weight)>::Scalar;
        const auto view = weight.view();
        const bool vector = weight.shape.size() == 1;
        to.dtype = dtype, to.transposed = place.transposed;
        to.cols = vector ? 1 : weight.cols;
        const Index rows = vector ? weight.cols : weight.rows;
        to.rows = std::max(to.rows, place.row + rows);
        to.shape = vector             ? std::vector<Index>{to.rows}
                   : place.transposed ? std::vector<Index>{to.cols, to.rows}
                                      : std::vector<Index>{to.rows, to.cols};
        to.parts.push_back({place.row, rows, [=, cols = weight.cols](Index row, double* out) {
                              Buffer<Widened<S>> numbers(cols);
                              moegpt::read_row(view, vector ? 0 : row, numbers.data());
                              for (Index k = 0; k < (vector ? 1 : cols); ++k)
                                out[k] = static_cast<double>(numbers[vector ? row : k]);
                            }});
      },
      tree);
  std::vector<safetensors::TensorToWrite> list;
  for (auto& [name, tensor] : all)
    list.push_back({name, dtype, tensor.shape,
                    [tensor = std::move(tensor)](safetensors::ByteSink out) { tensor.write(out); }});
  return list;
}

inline std::int64_t bytes_of(const safetensors::TensorToWrite& tensor) {
  std::int64_t bytes = facts(tensor.dtype).bits / 8;
  for (const Index extent : tensor.shape) bytes *= extent;
  return bytes;
}

inline void write_text(const std::filesystem::path& path, std::string text) {
  text += '\n';
  write_file_atomically(path, [&](FileWriter& out) { out.write(text); });
}

}  // namespace huggingface

// Writes a model to a directory, which is created if it is missing, so that transformers loads it: shards of
// tensors first, config.json last. Throws std::invalid_argument if the family's config.json cannot state the
// model's type and options, std::runtime_error for a weight that is not finite and a file that cannot be
// written.
template <class Model>
void save_huggingface(const std::filesystem::path& directory, const Model& model, const std::string& family,
                      HuggingFaceOptions options = {}) {
  using namespace huggingface;
  nlohmann::ordered_json json =
      config_json(family, parse_type(to_text<Model>()), Model::config, model.options);
  const nlohmann::json again = json;
  const HuggingFaceModel stated = ConfigReader((directory / "config.json").string(), again).read();
  check(stated.type() == to_text<Model>(), "a config.json of ", family, " cannot state a ", to_text<Model>(),
        ": ", detail::type_difference(to_text<Model>(), stated.type()));
  check(stated.options == model.options, "a config.json of ", family,
        " cannot state the options of the model: of ModelOptions only norm_epsilon, and rotary_base with "
        "rotary "
        "positions, may differ from their defaults");
  std::vector<safetensors::TensorToWrite> tensors =
      exports_of(family, Model::config, model, directory.string(), options.dtype);

  std::vector<std::vector<safetensors::TensorToWrite>> shards(1);
  std::int64_t total = 0, in_shard = 0;
  for (safetensors::TensorToWrite& tensor : tensors) {
    const std::int64_t bytes = huggingface::bytes_of(tensor);
    if (!shards.back().empty() && in_shard + bytes > options.shard_bytes) shards.emplace_back(), in_shard = 0;
    in_shard += bytes, total += bytes;
    shards.back().push_back(std::move(tensor));
  }
  std::filesystem::create_directories(directory);
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  for (std::size_t i = 0; i < shards.size(); ++i) {
    char name[64] = "model.safetensors";
    if (shards.size() > 1)
      std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
    for (const auto& tensor : shards[i]) map.push_back({tensor.name, name});
    const auto prepared = safetensors::prepared((directory / name).string(), std::move(shards[i]), {});
    write_file_atomically(directory / name, [&](FileWriter& out) { prepared.write(out); });
  }
  const std::filesystem::path index = directory / "model.safetensors.index.json";
  if (shards.size() > 1)
    huggingface::write_text(
        index, nlohmann::ordered_json{{"metadata", {{"total_size", total}}}, {"weight_map", map}}.dump(1));
  else
    std::filesystem::remove(index);  // of an earlier model, which would be read instead
  json["dtype"] = options.dtype == DType::f32    ? "float32"
                  : options.dtype == DType::bf16 ? "bfloat16"
                                                 : "float64";
  huggingface::write_text(directory / "config.json", json.dump(2));
}

// The tokenizer of a directory: tokenizer.json, or GPT-2's two files under their names of either source.
inline Tokenizer read_huggingface_tokenizer(const std::filesystem::path& directory) {
  if (std::filesystem::exists(directory / "tokenizer.json"))
    return read_tokenizer_json(directory / "tokenizer.json");
  for (const auto& [merges, vocabulary] :
       {std::pair{"merges.txt", "vocab.json"}, {"vocab.bpe", "encoder.json"}})
    if (std::filesystem::exists(directory / merges))
      return read_gpt2_tokenizer(directory / merges, directory / vocabulary);
  reject_file(directory.string(), "has no tokenizer.json, and no merges.txt with vocab.json");
}

// The type, as C++ text, of the model in a file of save() or in a directory of Hugging Face's layout.
inline std::string stated_type(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) return read_huggingface_config(path).type();
  return model_text(path.string());
}

// Reads either into a model and a tokenizer. Throws what load, load_huggingface and
// read_huggingface_tokenizer throw.
template <class Model>
void load_stated(const std::filesystem::path& path, Model& model, Tokenizer& tokenizer) {
  if (!std::filesystem::is_directory(path)) return load(path.string(), model, tokenizer);
  Tokenizer read = read_huggingface_tokenizer(path);
  check(read.vocab() <= Model::config.vocab, path.string(), ": its tokenizer has ", read.vocab(),
        " ids, its model ", Model::config.vocab);
  load_huggingface(path, model);
  tokenizer = std::move(read);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
