#pragma once
// Config: the extents of a model and the choices that decide which weights exist. A constexpr value and a
// template argument: GPT<Config{.vocab = 65, ...}, TopKRouter<8, 2>>.
#include <moegpt/layers/attention.hpp>
#include <moegpt/kernels/activations.hpp>

#include <concepts>
#include <initializer_list>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Norm { layer, rms };
enum class Positions { learned, rotary };
enum class Residual {
  pre_norm,   // x + branch(norm(x)), and a norm after the last block (GPT-2, Mixtral)
  post_norm,  // norm(x + branch(x)) (Vaswani et al. 2017)
  no_norm,    // x + branch(x)
};

// A choice of layers, as numbers or as a predicate: {1, 4} or [](int layer) { return layer % 3 == 0; }
// Layers are numbered from 0. A model does not compile with a number that none of its layers has.
struct LayerSet {
  static constexpr int most = 256;
  bool given = false;
  int lowest = 0, highest = -1;  // of the numbers in a list
  std::uint64_t bits[most / 64] = {};

  constexpr LayerSet() = default;
  constexpr LayerSet(std::initializer_list<int> layers) : given(true) {
    for (int layer : layers) {
      if (layer < lowest) lowest = layer;
      if (layer > highest) highest = layer;
      if (layer >= 0 && layer < most) insert(layer);
    }
  }
  template <std::predicate<int> Predicate>
  constexpr LayerSet(Predicate holds) : given(true) {
    for (int layer = 0; layer < most; ++layer)
      if (holds(layer)) insert(layer);
  }
  constexpr bool has(int layer) const {
    return layer >= 0 && layer < most && (bits[layer / 64] >> (layer % 64) & 1) != 0;
  }
  bool operator==(const LayerSet&) const = default;

 private:
  constexpr void insert(int layer) { bits[layer / 64] |= std::uint64_t{1} << (layer % 64); }
};

struct Config {
  int vocab;    // tokens the model knows
  int context;  // tokens it can look back on
  int dim;      // D, width of the residual stream
  int layers;
  int heads;
  int kv_heads = 0;          // 0: as many as heads
  int head_dim = 0;          // 0: dim / heads
  int hidden = 0;            // Dff, width of an expert; 0: 4 dim
  int dense_hidden = 0;      // of the feed-forward network of a dense layer; 0: as an expert
  Mask mask = Mask::causal;  // full: an encoder, whose tokens look both ways and which cannot generate
  int window = 0;            // a token attends to tokens less than this far away; 0: to any
  Norm norm = Norm::layer;
  Residual residual = Residual::pre_norm;
  Positions positions = Positions::learned;
  Activation activation = Activation::gelu;
  bool gated = false;           // experts are gated: down(act(gate x) * up x)
  bool attention_bias = false;  // of query, key and value
  bool output_bias = true;      // of attention's output
  bool expert_bias = true;
  bool head_bias = false;
  bool tied = false;      // the head shares its weight with the token embedding
  int dense_first = 0;    // this many layers have a dense feed-forward ...
  int moe_every = 1;      // ... and of the others, every n-th a mixture of experts
  LayerSet mixture_at{};  // or any other choice of the mixtures

  constexpr int expert_width() const { return hidden > 0 ? hidden : 4 * dim; }
  constexpr int dense_width() const { return dense_hidden > 0 ? dense_hidden : expert_width(); }
  constexpr bool is_moe(int layer) const {
    if (mixture_at.given) return mixture_at.has(layer);
    return layer >= dense_first && (layer - dense_first + 1) % moe_every == 0;
  }
  constexpr AttentionShape attention() const {
    return {.dim = dim,
            .heads = heads,
            .kv_heads = kv_heads,
            .head_dim = head_dim,
            .mask = mask,
            .rotary = positions == Positions::rotary,
            .bias = attention_bias,
            .output_bias = output_bias,
            .window = window};
  }
  bool operator==(const Config&) const = default;
};

// Asserts that the extents of a model can be meant: none is negative, and none so large that a product
// overflows.
template <Config C>
consteval bool extents_make_sense() {
  constexpr long long most = 1 << 26, heads = C.heads, head_dim = C.head_dim, factor = C.hidden > 0 ? 1 : 4;
  static_assert(C.vocab > 0 && C.context > 0 && C.dim > 0 && C.layers > 0 && C.heads > 0,
                "Config: vocab, context, dim, layers and heads must be positive");
  static_assert(
      C.kv_heads >= 0 && C.head_dim >= 0 && C.hidden >= 0 && C.dense_hidden >= 0,
      "Config: kv_heads, head_dim, hidden and dense_hidden must be at least 0, which stands for the default");
  static_assert(
      C.vocab <= most && C.context <= most && factor * C.dim <= most && C.layers <= most &&
          heads * (head_dim > 0 ? head_dim : 1) <= most && C.hidden <= most && C.dense_hidden <= most,
      "Config: an extent is absurd: vocab, context, the width of the stream, of all heads and of an expert, "
      "and the number of layers are at most 2^26");
  static_assert(C.kv_heads <= C.heads, "Config: kv_heads must be at most heads");
  static_assert(
      C.mixture_at.lowest >= 0 && C.mixture_at.highest < C.layers,
      "Config: mixture_at names a layer that is not there: layers are numbered from 0 to layers - 1");
  return true;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
