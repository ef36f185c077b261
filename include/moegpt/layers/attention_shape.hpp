#pragma once
// AttentionShape: the extents of an attention layer and the options that decide which weights it has.
#include <moegpt/core/layer_set.hpp>
#include <moegpt/layers/query_key_norm.hpp>
#include <moegpt/layers/rotary.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// kv_heads 0: as many as heads; head_dim 0: dim / heads.
struct AttentionShape {
  int dim, heads, kv_heads = 0, head_dim = 0;
  Mask mask = Mask::causal;
  bool rotary = false;
  QueryKeyNorm query_key_norm = QueryKeyNorm::none;
  int rotary_dim = 0;  // features of a head that are rotated, the first ones; 0: all
  Pairing pairing = Pairing::halves;
  RotaryScaling rotary_scaling = RotaryScaling::none;
  bool bias = false;  // of query, key and value
  bool output_bias = true;
  int window = 0;               // query p attends to keys |p - j| < window, within the mask; 0: no window
  LayerSet window_at{};         // layers of a model with the window, by Pass::layer; not given: all
  Local local = Local::window;  // or blocks of `window` positions
  int stride = 0;               // with a window: query p attends to keys (p - j) % stride = 0, too; 0: none
  int memory_dim = 0;           // features of a memory's tokens; 0: dim. If not dim: cross-attention only
  int adapter_rank = 0;         // of the projections' adapters; 0: none

  constexpr int key_value_heads() const { return kv_heads > 0 ? kv_heads : heads; }
  constexpr int width() const { return head_dim > 0 ? head_dim : dim / heads; }
  constexpr int rotary_width() const { return rotary_dim > 0 ? rotary_dim : width(); }
  constexpr int memory_width() const { return memory_dim > 0 ? memory_dim : dim; }

  constexpr bool has_window(int layer) const {
    return window > 0 && (!window_at.given || window_at.has(layer));
  }
  // Positions before its own that a query of a layer with a window, but no stride, may attend to.
  constexpr Index reach() const { return Index{local == Local::two_blocks ? 2 : 1} * window - 1; }

  // A cache of a window holds the positions that the next token and any of the last `spare` tokens may
  // attend to, one more because it begins at an even one, and room for `step` tokens.
  static constexpr Index spare = 64, step = 64;
  constexpr Index window_rows() const { return reach() + spare + 1 + step; }
  // Rows that a cache of a layer needs for each sequence.
  constexpr Index cache_rows(int layer, Index context) const {
    return has_window(layer) && stride == 0 && window_rows() < context ? window_rows() : context;
  }
  // The same for the layer with most.
  constexpr Index most_cache_rows(Index context) const {
    return window_at.given ? context : cache_rows(0, context);
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
