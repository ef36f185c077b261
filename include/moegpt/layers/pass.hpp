#pragma once
// Pass: everything one forward or backward needs to know besides numbers. Constants of a trained model and what
// one sweeps are run-time options here; extents are template arguments of the layers.
#include <moegpt/core/exec.hpp>
#include <moegpt/core/random.hpp>

#include <cmath>
#include <optional>

namespace moegpt::inline MOEGPT_BUILD {

// Tokens are batch-major: token t of sequence b is number b * length + t.
struct Shape {
  Index batch = 1, length = 1;
  Index tokens() const { return batch * length; }
  bool operator==(const Shape&) const = default;
};

// Tokens that share one capacity or one balance loss (which knows batch and sequence only).
enum class Group {
  batch,
  sequence,
  position,   // one position of every sequence: contemporaries, so that no competition among them looks ahead
};

// Who is kept by an expert that more tokens ask for than it takes: the order in which pairs ask for a place.
enum class Drop {
  token_order,         // tokens as they stand (makeMoE, megablocks); over a batch or sequence the only causal order
  slot_major,          // all first choices, then all second ones ... (GShard, Mesh-TensorFlow, Tutel)
  batch_prioritised,   // likewise, tokens by their best gate, the largest first (V-MoE)
  probability,         // pairs by their gate, the largest first (Megatron)
};

// What becomes of a capacity that is no whole number (up: Megatron).
enum class Round { down, up };

// Constants of a trained model: saved with it.
struct ModelOptions {
  double norm_epsilon = 1e-5;
  double rotary_base = 10000;
  double attention_scale = 0;    // of query-key products; 0: 1 / sqrt(head_dim)
  double capacity_factor = 0;    // an expert takes at most factor * tokens * K / E tokens; 0: all (dropless)
  double min_capacity = 0;       // ... but at least so many, and at least one, if there is a limit
  bool operator==(const ModelOptions&) const = default;
};

// Which load shares f and mean scores P the balance loss E sum_e f_e P_e multiplies: systems differ. Scores
// are divided by their sum under every rule. "Balanced" is the value of uniform loads and scores, of one
// mixture unless said otherwise; see balanced_value.
struct BalanceRule {
  enum class Choices { all, first };          // of a token's choices f counts all, or the first
  enum class Share { of_pairs, of_tokens };   // f_e = count_e / pairs counted, which sums to 1, or count_e / tokens
  enum class Layers { sum, mean, together };  // of losses; together: f and P are means over all layers, one loss

  Choices choices = Choices::all;
  Share share = Share::of_pairs;
  Group group = Group::batch;                 // f and P of the batch, or of each sequence and the loss their mean
  Layers layers = Layers::sum;
  bool operator==(const BalanceRule&) const = default;

  static const BalanceRule switch_transformer;   // balanced 1; also Megatron's; what an Objective starts with
  static const BalanceRule gshard;               // balanced 1; Mesh-TensorFlow takes it with .group = Group::sequence
  static const BalanceRule huggingface;          // balanced K, of the whole model; Mixtral, OLMoE, Qwen as published
  static const BalanceRule megablocks;           // balanced 1, of the whole model
  static const BalanceRule deepseek;             // balanced 1; of each sequence
  static const BalanceRule flaxformer;           // balanced K; of each sequence
};
inline constexpr BalanceRule BalanceRule::switch_transformer{};
inline constexpr BalanceRule BalanceRule::gshard{.choices = Choices::first};
inline constexpr BalanceRule BalanceRule::huggingface{.share = Share::of_tokens, .layers = Layers::together};
inline constexpr BalanceRule BalanceRule::megablocks{.layers = Layers::mean};
inline constexpr BalanceRule BalanceRule::deepseek{.group = Group::sequence};
inline constexpr BalanceRule BalanceRule::flaxformer{.share = Share::of_tokens, .group = Group::sequence};

// Variance over experts: sum of squares / E (Tensor2Tensor), or / (E - 1) (Tutel).
enum class Variance { population, unbiased };

// What a training run adds to the cross-entropy, and how it is regularised. Coefficients are of the model's
// losses: the balance loss is combined over layers by its rule, the others are sums over layers.
struct Objective {
  double dropout = 0;      // of attention's probabilities and output, and of dense networks' output
  std::optional<double> expert_dropout{};   // of experts' output: routed, shared, Soft MoE; none: as dropout
  double balance = 0;      // of the balance loss (Switch: 0.01) ...
  BalanceRule balance_rule{};                  // ... by this rule
  double z = 0;            // of the router z-loss (ST-MoE: 0.001)
  double importance = 0;   // of CV^2 of each expert's sum of gates (Shazeer et al. 2017: 0.1)
  double load = 0;         // of CV^2 of loads, smooth for a noisy router (likewise)
  Variance variation = Variance::population;   // in both CV^2
  double variance = 0;     // of the variance of mean scores over experts
  double count = 0;        // of the mean square deviation of each expert's sum of scores
};

// What the losses of routers add to the objective; Losses is a mixture's tape or a model's Loss.
template <class Losses>
double weighted(const Objective& o, const Losses& l) {
  double sum = o.balance * static_cast<double>(l.balance) + o.z * static_cast<double>(l.z);
  if constexpr (requires { l.importance; })
    sum += o.importance * static_cast<double>(l.importance) + o.load * static_cast<double>(l.load) +
           o.variance * static_cast<double>(l.variance) + o.count * static_cast<double>(l.count);
  return sum;
}
// The same objective with all coefficients multiplied by `weight`; dropout stays.
inline Objective scaled(Objective o, double weight) {
  for (double Objective::*coefficient : {&Objective::balance, &Objective::z, &Objective::importance, &Objective::load,
                                         &Objective::variance, &Objective::count})
    o.*coefficient *= weight;
  return o;
}
// sum += one, loss by loss.
template <class Sum, class Losses>
void add_losses(const Losses& one, Sum& sum) {
  sum.balance += static_cast<double>(one.balance);
  sum.z += static_cast<double>(one.z);
  if constexpr (requires { one.importance; }) {
    sum.importance += static_cast<double>(one.importance);
    sum.load += static_cast<double>(one.load);
    sum.variance += static_cast<double>(one.variance);
    sum.count += static_cast<double>(one.count);
  }
}

// What no run can mean: std::invalid_argument. Both may change between steps, so they are looked at in each. The
// capacity factor is checked where it is used.
[[gnu::noinline]] inline void check_options(const ModelOptions& o) {
  const auto positive = [](double x) { return x > 0 && std::isfinite(x); };
  check(positive(o.norm_epsilon), "norm_epsilon is ", o.norm_epsilon, ", expected a finite number above 0");
  check(positive(o.rotary_base), "rotary_base is ", o.rotary_base, ", expected a finite number above 0");
  check(o.attention_scale == 0 || positive(o.attention_scale), "attention_scale is ", o.attention_scale,
        ", expected a finite number above 0, or 0 for 1 / sqrt(head_dim)");
  check(o.min_capacity == 0 || positive(o.min_capacity), "min_capacity is ", o.min_capacity,
        ", expected a finite number, 0 or more");
}
[[gnu::noinline]] inline void check_objective(const Objective& o) {
  check(o.dropout >= 0 && o.dropout < 1, "the objective's dropout is ", o.dropout,
        ": it must be at least 0 and below 1");
  const double expert_dropout = o.expert_dropout.value_or(0);
  check(expert_dropout >= 0 && expert_dropout < 1, "the objective's expert_dropout is ", expert_dropout,
        ": it must be at least 0 and below 1");
  const std::pair<const char*, double> coefficients[] = {{"balance", o.balance}, {"z", o.z},
      {"importance", o.importance}, {"load", o.load}, {"variance", o.variance}, {"count", o.count}};
  for (const auto& [name, value] : coefficients)
    check(value >= 0 && std::isfinite(value), "the objective's coefficient ", name, " is ", value,
          ": it must be a finite number, 0 or more");
  check(o.balance_rule.group != Group::position, "the objective's balance_rule has group = Group::position, but a "
        "balance loss is of the batch or of each sequence: use Group::batch or Group::sequence");
}

struct Pass {
  Shape shape{};
  Exec exec{};
  ModelOptions options{};
  Objective objective{};
  std::optional<Key> key{};            // of noise and dropout; none: evaluation
  Index first_position = 0;            // of every sequence: what a key/value cache already holds
  Index first_token = 0;               // global number of token 0, for noise that is the same on any machine
  Index sequence_stride = 0;           // tokens from one sequence to the next in that numbering; 0: shape.length
  const int* ids = nullptr;            // [tokens] token ids, for routers that look at them
  const Index* lengths = nullptr;      // [batch] tokens that are not padding; null: all
  const bool* allowed = nullptr;       // [experts] experts that may be chosen; null: all
  int task = 0;
  Drop drop = Drop::token_order;         // set by the type of the router: Dropping<...>
  Group capacity_group = Group::batch;   // likewise
  Round rounding = Round::down;          // of a capacity; likewise
  bool partial = false;                  // less than a batch: in generation, and at the end of a text

  Index tokens() const { return shape.tokens(); }
  // For layers that may be used alone: the numbers of tokens in x and y must be the pass's, and the pass make sense.
  [[gnu::noinline]] void check_fits(Index x, Index y) const {
    check(shape.batch >= 0 && shape.length >= 0, "pass.shape is ", shape.batch, " x ", shape.length,
          " tokens: neither may be negative");
    check(x == tokens() && y == tokens(), "a layer got ", x, " tokens and room for ", y, " in y, but pass.shape is ",
          shape.batch, " x ", shape.length, " tokens");
    check(first_position >= 0 && first_token >= 0, "pass.first_position is ", first_position, " and pass.first_token ",
          first_token, ": neither may be negative");
    check(sequence_stride == 0 || sequence_stride >= shape.length, "pass.sequence_stride is ", sequence_stride,
          ", expected 0 or at least the ", shape.length, " tokens of a sequence");
    for (Index b = 0; lengths && b < shape.batch; ++b)
      check(lengths[b] >= 0 && lengths[b] <= shape.length, "pass.lengths[", b, "] is ", lengths[b], ", expected 0 .. ",
            shape.length);
    check_options(options);
    check_objective(objective);
    exec.check_threads();
  }
  Index stride() const { return sequence_stride > 0 ? sequence_stride : shape.length; }
  // The number that noise and dropout know a token by: the same in prefill and one token at a time.
  Index number_of(Index token) const {
    return first_token + token / shape.length * stride() + first_position + token % shape.length;
  }
  Index length_of(Index sequence) const { return lengths ? lengths[sequence] : shape.length; }
  bool is_padding(Index token) const {
    return lengths && token % shape.length >= lengths[token / shape.length];
  }
  double dropout() const { return key ? objective.dropout : 0; }
  double expert_dropout() const { return key ? objective.expert_dropout.value_or(objective.dropout) : 0; }
  // The same pass inside layer `number`: its noise is its own.
  [[gnu::noinline]] Pass at_layer(int number) const {
    Pass inner = *this;
    if (key) inner.key = key->with(Purpose::layer, static_cast<std::uint64_t>(number));
    return inner;
  }
};

// What an expert gives its projections: each of its calls works on one thread.
inline constexpr Pass one_thread{};

// Tokens handled together in loops over tokens; part of no result.
inline constexpr Index token_piece = 64;

}  // namespace moegpt::inline MOEGPT_BUILD
