#pragma once
// Adapters of a model (layers/adapted_linear.hpp): merge_adapters adds them to the matrices that they adapt,
// so that the model needs no more time and memory than one without; unmerge_adapters restores both.
//   W' = W + s B A
#include <moegpt/core/fields.hpp>
#include <moegpt/kernels/gemm.hpp>
#include <moegpt/layers/pass.hpp>

#include <map>
#include <string>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Whether a path, also one of a moment, is that of an adapter's matrix.
inline bool is_adapter(std::string_view path) {
  const std::string_view start = path.substr(0, path.size() < 9 ? 0 : path.size() - 9);
  return (path.ends_with("adapter.a") || path.ends_with("adapter.b")) &&
         (start.empty() || start.back() == '.');
}
inline bool is_no_adapter(std::string_view path) { return !is_adapter(path); }

// What merge_adapters replaced: adapters, and matrices as they were before. By path.
template <class T>
struct MergedAdapters {
  std::map<std::string, Buffer<T>> weights;
};

// Adds all adapters to their matrices and makes them empty. Returns adapters and former matrices, which take
// as much memory as they did in the model; without them, the merge cannot be undone. Throws
// std::invalid_argument if there are no adapters, as after another merge.
template <class Model>
MergedAdapters<typename Model::Scalar> merge_adapters(Model& model, const Exec& exec = {}) {
  using T = typename Model::Scalar;
  static_assert(std::same_as<walk::Storage<Model>, T>,
                "merge_adapters: the weights are stored for inference and would be rounded again: merge "
                "before convert");
  std::map<std::string, WeightRef<T>> weights;
  for_each_named_weight([&](const std::string& path, Kind, auto& w) { weights.emplace(path, w); }, model);
  MergedAdapters<T> merged;
  const auto take = [&](const std::string& path) {
    merged.weights.emplace(path, std::move(*weights.at(path).memory_));
  };
  for (const auto& [path, a] : weights) {
    if (!is_adapter(path) || !path.ends_with(".a") || a.empty()) continue;
    const std::string stem = path.substr(0, path.size() - std::string_view("adapter.a").size());
    const WeightRef<T>& w = weights.at(stem + "weight");
    const WeightRef<T>& b = weights.at(stem + "adapter.b");
    if (w.empty() || b.empty()) continue;
    merged.weights.emplace(stem + "weight", *w.memory_);
    Buffer<T> scaled(b.size());
    const T scale = static_cast<T>(adapter_scale(model.options, static_cast<int>(a.rows)));
    for (Index i = 0; i < b.size(); ++i) scaled[i] = scale * b[i];
    const MatrixView<const T> scaled_b{scaled.data(), b.rows, b.cols, b.cols};
    kernels::gemm<T>(exec, scaled_b, MatrixView<const T>(a.view()), w.view(), {.accumulate = true});
    take(path), take(stem + "adapter.b");
  }
  check(!merged.weights.empty(),
        "merge_adapters: the model has no adapters: its type has Config::adapter_rank "
        "0, or they are merged already");
  return merged;
}

// Restores adapters and matrices, with the bits that they had. Throws std::invalid_argument for those of
// another type of model, or if the model has adapters; then nothing changes.
template <class Model>
void unmerge_adapters(Model& model, MergedAdapters<typename Model::Scalar> merged) {
  std::size_t found = 0;
  for_each_named_weight(
      [&](const std::string& path, Kind, auto& w) {
        const auto former = merged.weights.find(path);
        if (former == merged.weights.end()) return;
        ++found;
        check(former->second.size() == w.extent && w.empty() == is_adapter(path), "unmerge_adapters: ", path,
              " has ", w.size(), " elements, merged are ", former->second.size(),
              ": the model is of another type, or not merged");
      },
      model);
  check(found > 0 && found == merged.weights.size(), "unmerge_adapters: the model has ", found, " of the ",
        merged.weights.size(), " merged weights, expected all: it is of another type");
  for_each_named_weight(
      [&](const std::string& path, Kind, auto& w) {
        const auto former = merged.weights.find(path);
        if (former != merged.weights.end()) *w.memory_ = std::move(former->second);
      },
      model);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
