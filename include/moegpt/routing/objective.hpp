#pragma once
// Training objective: coefficients and conventions of the auxiliary losses, and dropout.
#include <moegpt/routing/capacity.hpp>

#include <span>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Convention of the balance loss E sum_e f_e P_e: how load fractions f and mean scores P are computed. Scores
// are normalised under every rule. "balanced": the value for uniform loads and scores of one MoE layer,
// unless stated otherwise; see balanced_value.
struct BalanceRule {
  enum class Choices { all, first };         // f counts all choices of a token, or the first
  enum class Share { of_pairs, of_tokens };  // f_e = count_e / sum of counts, or count_e / tokens
  enum class Layers { sum, mean, pooled };   // of losses; pooled: one, of the means of f and P

  Choices choices = Choices::all;
  Share share = Share::of_pairs;
  Group group = Group::batch;  // one loss of the batch, or the mean of one loss per sequence
  Layers layers = Layers::sum;
  bool operator==(const BalanceRule&) const = default;

  static const BalanceRule switch_transformer;  // balanced 1; also Megatron's; what an Objective starts with
  static const BalanceRule gshard;       // balanced 1; Mesh-TensorFlow takes it with .group = Group::sequence
  static const BalanceRule huggingface;  // balanced K, of the whole model; Mixtral, OLMoE, Qwen as published
  static const BalanceRule megablocks;   // balanced 1, of the whole model
  static const BalanceRule deepseek;     // balanced 1; of each sequence
  static const BalanceRule flaxformer;   // balanced K; of each sequence
};
inline constexpr BalanceRule BalanceRule::switch_transformer{};
inline constexpr BalanceRule BalanceRule::gshard{.choices = Choices::first};
inline constexpr BalanceRule BalanceRule::huggingface{.share = Share::of_tokens, .layers = Layers::pooled};
inline constexpr BalanceRule BalanceRule::megablocks{.layers = Layers::mean};
inline constexpr BalanceRule BalanceRule::deepseek{.group = Group::sequence};
inline constexpr BalanceRule BalanceRule::flaxformer{.share = Share::of_tokens, .group = Group::sequence};

// Divisor of a variance over experts: E (Tensor2Tensor) or E - 1 (Tutel).
enum class Variance { population, unbiased };

// Loads of other micro-batches of a training step. A balance loss with Group::batch has load fractions f of
// these and its own batch's together; mean scores P are always of its own batch. See train/accumulate.hpp.
struct StepLoads {
  std::span<const Index> count{};  // [layers, experts] what f counts (Choices); empty: none
  Index tokens = 0;                // of these batches, without padding
  bool complete = false;           // whether they include those of the loss's own batch

  // [experts] of a layer. std::invalid_argument if there are none.
  const Index* of(int layer, int experts) const {
    check((layer + 1) * Index{experts} <= std::ssize(count), "the objective has step_loads of ", count.size(),
          " numbers, but the pass is in layer ", layer, " of ", experts,
          " experts: expected one for each layer and expert");
    return count.data() + layer * Index{experts};
  }
};

// The auxiliary losses of training, and dropout. The balance loss is combined over layers by its rule, the
// others are summed.
struct Objective {
  double dropout = 0;  // probability; of attention probabilities and outputs, and of dense FFN outputs
  std::optional<double> expert_dropout{};  // of routed, shared and Soft MoE experts' outputs; none: dropout
  double balance = 0;                      // coefficient of the balance loss (Switch: 0.01)
  BalanceRule balance_rule{};
  double z = 0;           // of the router z-loss (ST-MoE: 0.001)
  double importance = 0;  // of CV^2 over experts of the sum of gates (Shazeer et al. 2017: 0.1)
  double load = 0;        // of CV^2 over experts of the load, expected for a noisy router (the same: 0.1)
  Variance variation = Variance::population;  // divisor in both CV^2
  double variance = 0;  // of the variance over experts of the mean score (divisor E - 1)
  double count = 0;     // squared-count loss: of the variance over experts of the sum of scores
  double own = 0;       // of the losses that routers and MoE layers define themselves
  // [layers] of the model: factor of all coefficients in a layer, 0 or more; empty: 1. The memory must live
  // until backward. Not with a balance rule of Layers::pooled, whose loss is not a sum over layers.
  std::span<const double> layer_weights{};
  StepLoads step_loads{};  // besides those of the batch; the memory must live during forward
  // For gradcheck. true: forward keeps detached quantities (constants in the derivative) that are on the tape
  // of the last forward, instead of computing them, so that differences have the constants of backward.
  bool hold_detached = false;

  // std::invalid_argument for a layer without a number in layer_weights.
  double layer_weight(int layer) const {
    if (layer_weights.empty()) return 1;
    check(layer >= 0 && layer < std::ssize(layer_weights), "the objective has layer_weights of ",
          layer_weights.size(), " layers, but the pass is in layer ", layer,
          ": one for each layer of the model, or none");
    return layer_weights[static_cast<std::size_t>(layer)];
  }
};

// Auxiliary losses without coefficients: of one MoE layer (LossTape), or of a model (Loss).
template <class T>
struct RouterLosses {
  T balance = 0, z = 0, importance = 0, load = 0, variance = 0, count = 0, own = 0;
};

// One entry per loss. measure_losses computes its value, signal_of_losses its gradient
// (moe/mixture_losses.hpp). `own` is the loss of a router (HasOwnLoss), and what an MoE layer adds to it.
template <class T>
struct LossEntry {
  const char* name;
  double Objective::* coefficient;
  T RouterLosses<T>::* value;
};
template <class T>
inline constexpr LossEntry<T> loss_table[] = {
    {"balance", &Objective::balance, &RouterLosses<T>::balance},
    {"z", &Objective::z, &RouterLosses<T>::z},
    {"importance", &Objective::importance, &RouterLosses<T>::importance},
    {"load", &Objective::load, &RouterLosses<T>::load},
    {"variance", &Objective::variance, &RouterLosses<T>::variance},
    {"count", &Objective::count, &RouterLosses<T>::count},
    {"own", &Objective::own, &RouterLosses<T>::own}};

// sum over losses of coefficient * value
template <class T>
double weighted(const Objective& o, const RouterLosses<T>& losses) {
  double sum = 0;
  for (const auto& [name, coefficient, value] : loss_table<T>)
    sum += o.*coefficient * static_cast<double>(losses.*value);
  return sum;
}
// The objective with all coefficients multiplied by `factor`, and the same dropout.
inline Objective scaled(Objective o, double factor) {
  for (const auto& entry : loss_table<double>) o.*entry.coefficient *= factor;
  return o;
}
// sum += weight one, for each loss.
template <class T>
void add_losses(const RouterLosses<T>& one, RouterLosses<double>& sum, double weight = 1) {
  for (std::size_t i = 0; i < std::size(loss_table<T>); ++i)
    sum.*loss_table<double>[i].value += weight * static_cast<double>(one.*loss_table<T>[i].value);
}

// std::invalid_argument for a probability outside [0, 1), a coefficient that is negative or not finite, and
// Group::position. Each step calls it, because an objective may change between steps. layers: of the model,
// the length that layer_weights must have; below 0: unknown.
[[gnu::noinline]] inline void check_objective(const Objective& o, Index layers = -1) {
  check_dropout("the objective's dropout", o.dropout);
  check_dropout("the objective's expert_dropout", o.expert_dropout.value_or(0));
  for (const auto& [name, coefficient, value] : loss_table<double>)
    check(o.*coefficient >= 0 && std::isfinite(o.*coefficient), "the objective's coefficient ", name, " is ",
          o.*coefficient, ": it must be a finite number, 0 or more");
  check(o.balance_rule.group != Group::position,
        "the objective's balance_rule has group = Group::position, but a "
        "balance loss is of the batch or of each sequence: use Group::batch or Group::sequence");
  if (o.layer_weights.empty()) return;
  check(layers < 0 || std::ssize(o.layer_weights) == layers, "the objective has layer_weights of ",
        o.layer_weights.size(), " layers, but the model has ", layers, ": one for each layer, or none");
  for (const double w : o.layer_weights)
    check(w >= 0 && std::isfinite(w), "a layer weight of the objective is ", w,
          ": it must be a finite number, 0 or more");
  check(o.balance_rule.layers != BalanceRule::Layers::pooled,
        "the objective has layer_weights, but its "
        "balance_rule takes one loss of all layers together: use a rule with Layers::sum or Layers::mean");
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
