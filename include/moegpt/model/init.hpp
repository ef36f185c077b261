#pragma once
// Initial weights. Every scheme draws each weight from a stream of its own, named by the weight's path, so that
// adding or removing a weight does not change the others.
#include <moegpt/core/fields.hpp>
#include <moegpt/core/random.hpp>

namespace moegpt::inline MOEGPT_BUILD {

enum class Init {
  gpt2,      // N(0, 0.02^2); what writes to the residual stream / sqrt(2 layers); biases 0, norms 1 (Radford 2019)
  makemoe,   // matrices N(0, 2 / fan_in), their biases U(+-1/sqrt(fan_in)), embeddings N(0, 1), norms 1 (makeMoE)
};

namespace detail {

inline std::uint64_t hash_of(std::string_view text) {   // FNV-1a
  std::uint64_t h = 0xcbf29ce484222325u;
  for (char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}
inline bool is_norm(std::string_view path) {
  const auto dot = path.rfind('.');
  const std::string_view owner = path.substr(0, dot);
  return owner.ends_with("norm") || owner.ends_with("norm1") || owner.ends_with("norm2");
}

// mask, or mask.3: the mask of a task
inline bool is_mask(std::string_view path) {
  while (!path.empty() && path.back() >= '0' && path.back() <= '9') path.remove_suffix(1);
  return path.ends_with("mask") || path.ends_with("mask.");
}

// One weight; fan_in is that of the matrix before.
template <class T>
[[gnu::noinline]] void init_weight(T* data, Index size, bool matrix, int fan_in, int layers, const std::string& path,
                                   Kind kind, Key key, Init scheme) {
  Rng rng{key.with(Purpose::initial_weights, hash_of(path))};
  const bool embedding = path.find("embedding") != std::string::npos;
  double deviation = 0, spread = 0, constant = 0;
  if (is_norm(path)) {
    constant = path.ends_with("weight") ? 1 : 0;
  } else if (is_mask(path)) {
    constant = 1;
  } else if (kind == Kind::buffer) {
    constant = 0;
  } else if (path.ends_with("log_scale")) {   // of a cosine router
    constant = std::log(2.0);
  } else if (scheme == Init::makemoe) {
    deviation = embedding ? 1 : matrix ? std::sqrt(2.0 / fan_in) : 0;
    spread = matrix ? 0 : 1 / std::sqrt(double(fan_in));
  } else if (matrix) {
    const bool residual = path.ends_with("attention.output.weight") || path.ends_with("down.weight");
    deviation = residual ? 0.02 / std::sqrt(2.0 * layers) : 0.02;
  }
  double draws[256] = {};
  for (Index first = 0; first < size; first += 256) {
    const Index count = size - first < 256 ? size - first : 256;
    if (deviation > 0) rng.normals(draws, count);
    for (Index i = 0; i < count; ++i)
      data[first + i] = static_cast<T>(constant + deviation * draws[i] +
                                       (spread > 0 ? spread * (2 * rng.uniform() - 1) : 0));
  }
}

}  // namespace detail

// Fills a model; the same key and path give the same numbers.
template <class Model>
  requires requires { Model::config; }
void init(Model& model, Key key, Init scheme = Init::gpt2) {
  int fan_in = 1;   // a bias follows its matrix in fields()
  for_each_named_weight([&](const std::string& path, Kind kind, auto& w) {
    const bool matrix = w.shape.size() > 1;
    if (matrix || path == "head.bias") fan_in = matrix ? static_cast<int>(w.cols) : Model::config.dim;
    detail::init_weight(w.data(), w.size(), matrix, fan_in, Model::config.layers, path, kind, key, scheme);
  }, model);
}

}  // namespace moegpt::inline MOEGPT_BUILD
