#pragma once
// Config: the extents of a model and the choices that decide which weights exist. A constexpr value and a
// template argument: GPT<Config{.vocab = 65, ...}, TopKRouter<8, 2>>.
#include <moegpt/layers/attention.hpp>
#include <moegpt/kernels/activations.hpp>

namespace moegpt::inline MOEGPT_BUILD {

enum class Norm { layer, rms };
enum class Positions { learned, rotary };

struct Config {
  int vocab;                 // tokens the model knows
  int context;               // tokens it can look back on
  int dim;                   // D, width of the residual stream
  int layers;
  int heads;
  int kv_heads = 0;          // 0: as many as heads
  int head_dim = 0;          // 0: dim / heads
  int hidden = 0;            // Dff, width of an expert; 0: 4 dim
  Norm norm = Norm::layer;
  Positions positions = Positions::learned;
  Activation activation = Activation::gelu;
  bool gated = false;        // experts are gated: down(act(gate x) * up x)
  bool attention_bias = false;   // of query, key and value
  bool output_bias = true;       // of attention's output
  bool expert_bias = true;
  bool head_bias = false;
  bool tied = false;         // the head shares its weight with the token embedding
  int dense_first = 0;       // this many layers have a dense feed-forward ...
  int moe_every = 1;         // ... and of the others, every n-th a mixture of experts

  constexpr int expert_width() const { return hidden > 0 ? hidden : 4 * dim; }
  constexpr bool is_moe(int layer) const {
    return layer >= dense_first && (layer - dense_first + 1) % moe_every == 0;
  }
  constexpr AttentionShape attention() const {
    return {.dim = dim, .heads = heads, .kv_heads = kv_heads, .head_dim = head_dim, .mask = Mask::causal,
            .rotary = positions == Positions::rotary, .bias = attention_bias, .output_bias = output_bias};
  }
  bool operator==(const Config&) const = default;
};

}  // namespace moegpt::inline MOEGPT_BUILD
