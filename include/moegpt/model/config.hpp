#pragma once
// Config: dimensions of a model and the options that decide which weights exist. It is a template argument:
// GPT<Config{.vocab = 65, ...}, TopKRouter<8, 2>>.
#include <moegpt/layers/attention_shape.hpp>
#include <moegpt/kernels/activations.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Norm { layer, rms };
enum class Positions { learned, rotary };
enum class Residual {
  pre_norm,   // x + branch(norm(x)), and a final norm after the last block (GPT-2, Mixtral)
  post_norm,  // norm(x + branch(x)) (Vaswani et al. 2017)
  no_norm,    // x + branch(x)
};

// Required: vocab, context, dim, layers, heads.
struct Config {
  int vocab;                    // V, vocabulary size
  int context;                  // maximum sequence length, in tokens
  int dim;                      // D, width of the residual stream
  int layers;                   // L, number of blocks
  int heads;                    // H, query heads
  int kv_heads = 0;             // Hkv, key/value heads, a divisor of heads; 0: heads
  int head_dim = 0;             // d, width of a head; 0: dim / heads
  int hidden = 0;               // Dff, hidden width of an expert; 0: 4 dim
  int dense_hidden = 0;         // hidden width of a dense FFN; 0: that of an expert
  Mask mask = Mask::causal;     // full: bidirectional attention (encoder); cannot generate
  int window = 0;               // sliding window: |query - key| < window; 0: unlimited
  LayerSet window_at{};         // indices of the layers with the window; not given: all
  Local local = Local::window;  // or blocks of `window` positions instead of a sliding window
  int stride = 0;               // beside the window, keys with (query - key) % stride = 0; 0: none
  Norm norm = Norm::layer;      // LayerNorm or RMSNorm
  Residual residual = Residual::pre_norm;
  Positions positions = Positions::learned;            // learned embedding, or rotary (RoPE)
  QueryKeyNorm query_key_norm = QueryKeyNorm::none;    // RMSNorm of queries and keys: of each head, or of all
  int rotary_dim = 0;                                  // leading features of a head that are rotated; 0: all
  Pairing pairing = Pairing::halves;                   // features rotated together: i, i + r/2 or 2i, 2i + 1
  RotaryScaling rotary_scaling = RotaryScaling::none;  // for a longer context than in training
  Activation activation = Activation::gelu;            // of experts and dense FFNs
  bool gated = false;                                  // gated FFNs, as SwiGLU: down(act(gate x) * up x)
  bool attention_bias = false;                         // biases of query, key and value projections
  bool output_bias = true;                             // bias of attention's output projection
  bool expert_bias = true;                             // biases of experts and dense FFNs
  bool head_bias = false;                              // bias of the LM head
  bool tied = false;                                   // the LM head shares the token embedding's weight
  int adapter_rank = 0;   // of attention's and an untied LM head's adapters; 0: none
  int dense_first = 0;    // the first dense_first layers have dense FFNs
  int moe_every = 1;      // of the others, every moe_every-th is an MoE layer
  LayerSet mixture_at{};  // instead of these two: indices of the MoE layers

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
            .query_key_norm = query_key_norm,
            .rotary_dim = rotary_dim,
            .pairing = pairing,
            .rotary_scaling = rotary_scaling,
            .bias = attention_bias,
            .output_bias = output_bias,
            .window = window,
            .window_at = window_at,
            .local = local,
            .stride = stride,
            .adapter_rank = adapter_rank};
  }
  bool operator==(const Config&) const = default;
};

// Static assertions on each dimension: 0 .. 2^26, so that a product of two does not overflow.
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
          heads * (head_dim > 0 ? head_dim : 1) <= most && C.hidden <= most && C.dense_hidden <= most &&
          C.window <= most && C.stride <= most,
      "Config: an extent is absurd: vocab, context, the width of the stream, of all heads and of an expert, "
      "the window, the stride and the number of layers are at most 2^26");
  static_assert(C.adapter_rank >= 0 && C.adapter_rank <= most,
                "Config: adapter_rank must be 0, which stands for no adapters, to 2^26");
  static_assert(C.kv_heads <= C.heads, "Config: kv_heads must be at most heads");
  static_assert(
      C.window_at.lowest >= 0 && C.window_at.highest < C.layers,
      "Config: window_at names a layer that is not there: layers are numbered from 0 to layers - 1");
  static_assert(!C.window_at.given || C.layers <= LayerSet::most,
                "Config: window_at chooses among at most LayerSet::most layers");
  static_assert(
      C.mixture_at.lowest >= 0 && C.mixture_at.highest < C.layers,
      "Config: mixture_at names a layer that is not there: layers are numbered from 0 to layers - 1");
  return true;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
