#pragma once
// Pass: the call context of a forward or backward, that is, all arguments besides tokens and weights. Extents
// are template arguments of layers; constants of a trained model and hyperparameters are run-time options.
#include <moegpt/core/exec.hpp>
#include <moegpt/core/token_positions.hpp>
#include <moegpt/core/random.hpp>

#include <cmath>
#include <optional>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Tokens are batch-major: token t of sequence b has index b * length + t.
struct Shape {
  Index batch = 1, length = 1;
  Index tokens() const { return batch * length; }
  bool operator==(const Shape&) const = default;
};

// Constants of a trained model, saved with it.
struct ModelOptions {
  double norm_epsilon = 1e-5;
  double rotary_base = 10000;
  double attention_scale = 0;  // of query-key products; 0: 1 / sqrt(head_dim)
  double capacity_factor = 0;  // capacity of an expert: factor * tokens * K / E slots; 0: dropless
  double min_capacity = 0;     // minimum capacity in slots; a capacity is at least 1
  double adapter_alpha = 0;    // adapters are multiplied by adapter_alpha / rank; 0: by 1
  double qkv_clip = 0;         // queries, keys and values are limited to +-qkv_clip; 0: not
  double embedding_scale = 1;  // of token embeddings
  double residual_scale = 1;   // of what attention and a feed-forward branch add to the residual stream
  double logit_scale = 1;      // of the LM head's logits
  // Numbers of Config::rotary_scaling (layers/rotary.hpp).
  double rotary_factor = 1;     // ratio of the context to that of training
  double rotary_context = 0;    // context of training, in tokens; yarn and llama3 need it
  double rotary_fast = 32;      // features that rotate more often in that context are not scaled ...
  double rotary_slow = 1;       // ... and those that rotate less often are scaled by rotary_factor
  double rotary_magnitude = 0;  // factor of rotated queries and keys; 0: yarn's 0.1 ln(factor) + 1, else 1
  bool operator==(const ModelOptions&) const = default;
};

// std::invalid_argument for an option out of range. Each step calls it, because options may change between
// steps. The capacity factor is checked where it is used (routing/capacity.hpp).
[[gnu::noinline]] inline void check_options(const ModelOptions& o) {
  const auto positive = [](double x) { return x > 0 && std::isfinite(x); };
  check(positive(o.norm_epsilon), "norm_epsilon is ", o.norm_epsilon, ", expected a finite number above 0");
  check(positive(o.rotary_base), "rotary_base is ", o.rotary_base, ", expected a finite number above 0");
  check(o.attention_scale == 0 || positive(o.attention_scale), "attention_scale is ", o.attention_scale,
        ", expected a finite number above 0, or 0 for 1 / sqrt(head_dim)");
  check(o.min_capacity == 0 || positive(o.min_capacity), "min_capacity is ", o.min_capacity,
        ", expected a finite number, 0 or more");
  check(o.adapter_alpha == 0 || positive(o.adapter_alpha), "adapter_alpha is ", o.adapter_alpha,
        ", expected a finite number above 0, or 0 for the adapters' rank");
  check(o.qkv_clip == 0 || positive(o.qkv_clip), "qkv_clip is ", o.qkv_clip,
        ", expected a finite number above 0, or 0 for no limit");
  check(positive(o.embedding_scale), "embedding_scale is ", o.embedding_scale,
        ", expected a finite number above 0");
  check(positive(o.residual_scale), "residual_scale is ", o.residual_scale,
        ", expected a finite number above 0");
  check(positive(o.logit_scale), "logit_scale is ", o.logit_scale, ", expected a finite number above 0");
  check(o.rotary_factor >= 1 && std::isfinite(o.rotary_factor), "rotary_factor is ", o.rotary_factor,
        ", expected a finite number, 1 or more");
  check(o.rotary_context == 0 || positive(o.rotary_context), "rotary_context is ", o.rotary_context,
        ", expected a number of tokens, or 0 if rotary_scaling does not need it");
  check(positive(o.rotary_slow) && o.rotary_fast > o.rotary_slow && std::isfinite(o.rotary_fast),
        "rotary_slow is ", o.rotary_slow, " and rotary_fast ", o.rotary_fast,
        ", expected finite numbers above 0, the second greater");
  check(o.rotary_magnitude == 0 || positive(o.rotary_magnitude), "rotary_magnitude is ", o.rotary_magnitude,
        ", expected a finite number above 0, or 0 for that of rotary_scaling");
}
// Factor of adapters (layers/adapted_linear.hpp).
inline double adapter_scale(const ModelOptions& o, int rank) {
  return o.adapter_alpha > 0 ? o.adapter_alpha / rank : 1;
}
inline void check_dropout(const char* name, double probability) {
  check(probability >= 0 && probability < 1, name, " is ", probability,
        ": it must be at least 0 and below 1");
}

// Additional arguments of routers and their losses: routing/routing_context.hpp.
struct RoutingContext;

struct Pass {
  Shape shape{};
  Exec exec{};
  ModelOptions options{};
  double dropout = 0;        // probability; of attention probabilities and outputs, of dense FFNs
  std::optional<Key> key{};  // RNG key of noise and dropout; none: evaluation
  Index first_position = 0;  // of every sequence: the number of positions in a key/value cache
  const Index* first_positions = nullptr;  // [batch] of each sequence; null: first_position
  Index first_token = 0;                   // global number of token 0, for noise independent of partitions
  Index sequence_stride = 0;               // global numbers between sequences; 0: shape.length
  const Index* lengths = nullptr;          // [batch] tokens that are not padding; null: all
  const Rows* documents = nullptr;  // [tokens] positions of the token's document, to attend to; null: all
  Index memory_length = 0;  // to size memory of cross-attention before its first call; tokens of a sequence
  bool partial = false;     // smaller than a batch: in generation, and at the end of a text
  int layer = 0;            // number of the layer in its model, from 0; see at_layer
  const RoutingContext* routing = nullptr;  // null: no losses, all experts allowed

  Index tokens() const { return shape.tokens(); }
  // std::invalid_argument unless a layer's x and y have tokens() tokens and the fields are in range.
  [[gnu::noinline]] void check_fits(Index x, Index y) const {
    check(shape.batch >= 0 && shape.length >= 0, "pass.shape is ", shape.batch, " x ", shape.length,
          " tokens: neither may be negative");
    check(x == tokens() && y == tokens(), "a layer got ", x, " tokens and room for ", y,
          " in y, but pass.shape is ", shape.batch, " x ", shape.length, " tokens");
    check(first_position >= 0 && first_token >= 0, "pass.first_position is ", first_position,
          " and pass.first_token ", first_token, ": neither may be negative");
    for (Index b = 0; first_positions && b < shape.batch; ++b)
      check(first_positions[b] >= 0, "pass.first_positions[", b, "] is ", first_positions[b],
            ", expected 0 or more");
    check(sequence_stride == 0 || sequence_stride >= shape.length, "pass.sequence_stride is ",
          sequence_stride, ", expected 0 or at least the ", shape.length, " tokens of a sequence");
    for (Index b = 0; lengths && b < shape.batch; ++b)
      check(lengths[b] >= 0 && lengths[b] <= shape.length, "pass.lengths[", b, "] is ", lengths[b],
            ", expected 0 .. ", shape.length);
    check_options(options);
    check_dropout("pass.dropout", dropout);
    exec.check_threads();
  }
  Index stride() const { return sequence_stride > 0 ? sequence_stride : shape.length; }
  // Global number of a token, the counter of noise and dropout: the same in prefill and in decoding.
  Index number_of(Index token) const {
    return first_token + token / shape.length * stride() + positions()[token];
  }
  TokenPositions positions() const { return {shape.length, first_position, first_positions}; }
  Index length_of(Index sequence) const { return lengths ? lengths[sequence] : shape.length; }
  // Number of positions of a sequence, without padding; and its maximum over sequences.
  Index end_of(Index sequence) const { return positions().first_of(sequence) + length_of(sequence); }
  Index most_positions() const {
    Index most = 0;
    for (Index b = 0; b < shape.batch; ++b) most = end_of(b) > most ? end_of(b) : most;
    return most;
  }
  bool is_padding(Index token) const {
    return lengths && token % shape.length >= lengths[token / shape.length];
  }
  double applied_dropout() const { return key ? dropout : 0; }
  // The pass with the RNG key of layer `number`.
  [[gnu::noinline]] Pass at_layer(int number) const {
    Pass inner = *this;
    inner.layer = number;
    if (key) inner.key = key->with(Purpose::layer, static_cast<std::uint64_t>(number));
    return inner;
  }
};

// x.resize(pass) for each argument: Tokens, tapes, scratch.
template <class... X>
void resize_all(const Pass& pass, X&... x) {
  (x.resize(pass), ...);
}

// Chunk of loops over tokens. Does not affect results.
inline constexpr Index token_piece = 64;

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
