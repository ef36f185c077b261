#pragma once
// Initial weights. The RNG key of each weight is derived from its path, so adding or removing a weight does
// not change the others.
#include <moegpt/core/fields.hpp>
#include <moegpt/core/random.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Norm weights are 1.
enum class Init {
  // Radford et al. 2019: N(0, 0.02^2), last matrix of a residual branch N(0, 0.02^2 / (2 layers)), biases 0
  gpt2,
  // makeMoE: matrices N(0, 2 / fan_in), biases U(+-1 / sqrt(fan_in)), embeddings N(0, 1)
  makemoe,
};

namespace detail {

inline std::uint64_t fnv_1a(std::string_view text) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

// Distribution of an element: constant + N(0, deviation^2) + U(+-spread).
struct Draw {
  double constant = 0, deviation = 0, spread = 0;
};
[[gnu::noinline]] inline Draw draw_of(const walk::Attributes& attributes, bool matrix, Index fan_in,
                                      int layers, Init scheme) {
  using enum Start::Rule;
  const auto [rule, value] = attributes.start;
  const bool makemoe = scheme == Init::makemoe;
  if (rule == constant) return {.constant = value};
  if (attributes.kind == Kind::buffer) return {};
  if (rule == bias) return {.spread = makemoe ? 1 / std::sqrt(value) : 0};
  if (!matrix) return {};
  if (rule == uniform) return {.spread = 1 / std::sqrt(static_cast<double>(fan_in))};
  if (makemoe) return {.deviation = rule == embedding ? 1 : std::sqrt(2.0 / static_cast<double>(fan_in))};
  return {.deviation = rule == residual ? 0.02 / std::sqrt(2.0 * layers) : 0.02};
}

// Row by row, so that weights in panels never exist as T beside them.
template <class W>
[[gnu::noinline]] void init_weight(const W& w, const Draw& draw, Rng rng) {
  using T = Widened<typename W::Scalar>;
  Buffer<T> row(w.cols);
  Index written = 0, k = 0;
  double draws[256] = {};
  for (Index first = 0; first < w.size(); first += 256) {
    const Index count = w.size() - first < 256 ? w.size() - first : 256;
    if (draw.deviation > 0) rng.normals(draws, count);
    for (Index i = 0; i < count; ++i) {
      row[k++] = static_cast<T>(draw.constant + draw.deviation * draws[i] +
                                (draw.spread > 0 ? draw.spread * (2 * rng.uniform() - 1) : 0));
      if (k == w.cols) write_row(w.view(), written++, row.data()), k = 0;
    }
  }
}

}  // namespace detail

// Sets all weights by scheme and Field::start (core/start.hpp). Equal key and path give equal values.
template <class Model>
  requires requires { Model::config; }
void init(Model& model, Key key, Init scheme = Init::gpt2) {
  walk::each(
      [&](const walk::Path& path, const walk::Attributes& attributes, auto& w) {
        const auto draw =
            detail::draw_of(attributes, w.shape.size() > 1, w.cols, Model::config.layers, scheme);
        const Key stream = key.with(Purpose::initial_weights, detail::fnv_1a(path.text()));
        detail::init_weight(w, draw, Rng{stream});
      },
      model);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
