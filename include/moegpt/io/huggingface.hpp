#pragma once
// Models in Hugging Face's layout: a directory with config.json, and model.safetensors or shards that
// model.safetensors.index.json lists. Tensors are read and written in pieces.
#include <moegpt/io/huggingface_config_json.hpp>
#include <moegpt/io/huggingface_files.hpp>
#include <moegpt/io/huggingface_tensors.hpp>

#include <set>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace huggingface {

// Tensors that a model does not need: buffers, and GLM's layers for the prediction of further tokens, which
// follow those of the model.
inline bool is_not_needed(const std::string& name, const std::string& family, int layers) {
  for (const std::string_view end : {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"})
    if (name.ends_with(end)) return true;
  const std::string_view stem = "model.layers.";
  int layer = 0;
  if (family != "glm4_moe" || !name.starts_with(stem)) return false;
  std::from_chars(name.data() + stem.size(), name.data() + name.size(), layer);
  return layer >= layers;
}

// The text of a model's type, the same for all ways to state it.
template <class Model>
std::string canonical_type() {
  return to_text<Model>(canonical(Model::config));
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
  HuggingFaceModel found = described;
  found.config = canonical(found.config);
  check(found.type() == canonical_type<Model>(), directory.string(), " describes a ",
        shown(described.type(), 1000), ", this program is compiled for a '", to_text<Model>(),
        "': ", shown(detail::type_difference(found.type(), canonical_type<Model>()), 1000));
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
    if (!is_not_needed(name, described.family, Model::config.layers)) unknown.push_back(shown(name));
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
  // The directory of the model that this one was trained from. Its tokenizer, its generation settings and the
  // keys of its config.json that do not change what weights compute are copied.
  std::filesystem::path base{};
  const Tokenizer* tokenizer = nullptr;  // of byte pairs; without base: written beside the model
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
        // The selection bias decides between scores that BF16 would make equal.
        if (dtype == DType::bf16 && place.name.ends_with(".e_score_correction_bias")) to.dtype = DType::f32;
        to.cols = vector ? 1 : weight.cols;
        const Index rows = vector ? weight.cols : weight.rows;
        const Index of_expert = place.part == Part::down ? rows : 2 * rows;  // rows, in a tensor of experts
        Index first = place.row;
        if (place.expert >= 0) first = place.expert * of_expert + (place.part == Part::up ? rows : 0);
        to.rows = std::max(to.rows, first + rows);
        to.shape = vector             ? std::vector<Index>{to.rows}
                   : place.transposed ? std::vector<Index>{to.cols, to.rows}
                                      : std::vector<Index>{to.rows, to.cols};
        if (place.expert >= 0) to.shape = {to.rows / of_expert, of_expert, to.cols};
        to.parts.push_back({first, rows, [=, cols = weight.cols](Index row, double* out) {
                              Buffer<Widened<S>> numbers(cols);
                              moegpt::read_row(view, vector ? 0 : row, numbers.data());
                              for (Index k = 0; k < (vector ? 1 : cols); ++k)
                                out[k] = static_cast<double>(numbers[vector ? row : k]);
                            }});
      },
      tree);
  std::vector<safetensors::TensorToWrite> list;
  for (auto& [name, tensor] : all)
    list.push_back({name, tensor.dtype, tensor.shape,
                    [tensor = std::move(tensor)](safetensors::ByteSink out) { tensor.write(out); }});
  return list;
}

inline std::int64_t bytes_of(const safetensors::TensorToWrite& tensor) {
  std::int64_t bytes = facts(tensor.dtype).bits / 8;
  for (const Index extent : tensor.shape) bytes *= extent;
  return bytes;
}

// Removes the tensors of an earlier model: its model.safetensors would be read in place of shards.
inline void remove_other_tensors(const std::filesystem::path& directory,
                                 const std::set<std::string>& written) {
  std::vector<std::filesystem::path> others;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    const bool shard =
        name.starts_with("model-") && name.find("-of-") != name.npos && name.ends_with(".safetensors");
    const bool tensors = shard || name == "model.safetensors" || name == "model.safetensors.index.json";
    if (tensors && !written.contains(name)) others.push_back(entry.path());
  }
  for (const auto& path : others) std::filesystem::remove(path);
}

}  // namespace huggingface

// Writes a model to a directory, which is created if it is missing, so that transformers loads it: shards of
// tensors first, config.json last. Tensors of an earlier model in it are removed. Without `base` and
// `tokenizer` no tokenizer is written. Throws std::invalid_argument if the family's config.json cannot state
// the model's type and options, std::runtime_error for a weight that is not finite and a file that cannot be
// written.
template <class Model>
void save_huggingface(const std::filesystem::path& directory, const Model& model, const std::string& family,
                      HuggingFaceOptions options = {}) {
  using namespace huggingface;
  nlohmann::ordered_json json = stated_config((directory / "config.json").string(), family,
                                              canonical_type<Model>(), Model::config, model.options);
  std::vector<safetensors::TensorToWrite> tensors =
      exports_of(family, Model::config, model, directory.string(), options.dtype);

  check(tensors.size() <= IndexLimits::tensors, directory.string(), " would have ", tensors.size(),
        " tensors, expected at most ", IndexLimits::tensors);
  std::vector<std::vector<safetensors::TensorToWrite>> shards(1);
  std::int64_t total = 0, in_shard = 0;
  for (safetensors::TensorToWrite& tensor : tensors) {
    const std::int64_t bytes = huggingface::bytes_of(tensor);
    const bool full = shards.back().size() == SafetensorsLimits::tensors;
    if (full || (!shards.back().empty() && in_shard + bytes > options.shard_bytes))
      shards.emplace_back(), in_shard = 0;
    in_shard += bytes, total += bytes;
    shards.back().push_back(std::move(tensor));
  }
  std::filesystem::create_directories(directory);
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  std::set<std::string> written;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    char name[64] = "model.safetensors";
    if (shards.size() > 1)
      std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
    for (const auto& tensor : shards[i]) map.push_back({tensor.name, name});
    const auto prepared = safetensors::prepared((directory / name).string(), std::move(shards[i]), {});
    write_file_atomically(directory / name, [&](FileWriter& out) { prepared.write(out); });
    written.insert(name);
  }
  if (shards.size() > 1) {
    written.insert("model.safetensors.index.json");
    write_text(directory / "model.safetensors.index.json",
               nlohmann::ordered_json{{"metadata", {{"total_size", total}}}, {"weight_map", map}}.dump(1));
  }
  remove_other_tensors(directory, written);
  if (!options.base.empty())
    add_files_of(options.base, directory, json);
  else if (options.tokenizer)
    add_tokenizer(directory, *options.tokenizer, json);
  json["dtype"] = options.dtype == DType::f32    ? "float32"
                  : options.dtype == DType::bf16 ? "bfloat16"
                                                 : "float64";
  write_text(directory / "config.json", json.dump(2));
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
