#pragma once
// Router: concept and its signal. A router specification (`Recipe`), such as TopKRouter<8, 2>, defines the
// number of experts and the maximum per token; its For<D, T> holds the weights for width D. Forward computes
// a RoutingPlan from tokens and the pass. Backward receives a RouterSignal: gradients of gates, scores and
// loads, and the z-loss.
#include <moegpt/layers/layer.hpp>
#include <moegpt/routing/routing_plan.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Input of a router's backward. Null: no gradient; only d_gate is never null.
template <class T>
struct RouterSignal {
  const T* d_gate = nullptr;        // [slots] of plan.gate
  const T* d_mean_score = nullptr;  // [groups, E] of the mean over each group's tokens of tape.score
  T z = 0;                          // coefficient of the z-loss, the mean over tokens of lse^2
  Group group = Group::batch;       // of d_mean_score: batch or sequence
  const T* d_load = nullptr;        // [E] of tape.load, for tapes with has_expected_load
  const T* d_score = nullptr;       // [tokens, E] of tape.score
  T own = 0;                        // coefficient of tape.own_loss, for tapes with has_own_loss

  // Gradient of token n's scores: ds[e] += d_score[n][e] + d_mean_score[g][e] / tokens of its group g, except
  // for padding. routed: routed_tokens(pass).
  void add_to_scores(Index n, Index routed, const Pass& pass, int experts, T* ds) const {
    if (pass.is_padding(n)) return;
    for (int e = 0; d_score && e < experts; ++e) ds[e] += d_score[n * experts + e];
    if (!d_mean_score) return;
    const Index sequence = group == Group::sequence ? n / pass.shape.length : 0;
    const T* d = d_mean_score + sequence * experts;
    const T tokens = static_cast<T>(group == Group::sequence ? pass.length_of(sequence) : routed);
    for (int e = 0; e < experts; ++e) ds[e] += d[e] / tokens;
  }
};

// For<D, T>: the weights of a router.
template <class R>
concept RouterOf =
    requires(const R router, R grad, typename R::Tape tape, const typename R::Tape read_tape,
             typename R::Scratch scratch, RoutingPlan<typename R::Scalar> plan,
             const RoutingPlan<typename R::Scalar> read_plan, RouterSignal<typename R::Scalar> signal,
             In<R::dim, typename R::Scalar> x, Sum<R::dim, typename R::Scalar> dx, const Pass pass) {
      R::fields();
      tape.resize(pass);
      scratch.resize(pass);
      router.forward(x, plan, tape, pass);
      router.backward(x, read_plan, read_tape, signal, dx, grad, scratch, pass);
      {
        read_tape.score[0]
      };  // [tokens, E] scores of all experts, normalised; for balance losses and metrics
      { read_tape.lse[0] };  // [tokens] log-sum-exp of the logits, for the z-loss
    };

// Optional members of a router's tape. They are read only if the tape declares, for example,
// `static constexpr bool has_choices = true`.
//   has_choices         Buffer<int> chosen [tokens, K], the argument of plan.assign
//   has_selected        Buffer<int> selected [tokens, K], the same with discarded experts
//   has_expected_load   Buffer<T> load [E], whose gradient is signal.d_load
//   has_own_loss        T own_loss, a loss of the router; backward adds the gradient of signal.own * own_loss
template <class Tape>
concept HasChoices = requires { requires Tape::has_choices; };
template <class Tape>
concept HasSelected = requires { requires Tape::has_selected; };
template <class Tape>
concept HasExpectedLoad = requires { requires Tape::has_expected_load; };
template <class Tape>
concept HasOwnLoss = requires { requires Tape::has_own_loss; };

// A router specification. active: maximum number of experts of a token. causal: the route of a token does not
// depend on later tokens.
template <class Recipe>
concept Router = requires {
  { Recipe::experts } -> std::convertible_to<int>;
  { Recipe::active } -> std::convertible_to<int>;
  { Recipe::causal } -> std::convertible_to<bool>;
} && RouterOf<typename Recipe::template For<4, float>>;

// Maximum number of slots of a pass, for which MoE layers reserve memory: tokens * active, or
// Recipe::max_slots(pass) if that is less. max_slots must not decrease with the size of the pass.
template <class Recipe>
concept HasMaxSlots = requires(const Pass pass) {
  { Recipe::max_slots(pass) } -> std::convertible_to<Index>;
};
template <class Recipe>
Index max_slots_of(const Pass& pass) {
  const Index all = pass.tokens() * Recipe::active;
  if constexpr (HasMaxSlots<Recipe>)
    return std::min<Index>(Recipe::max_slots(pass), all);
  else
    return all;
}

// Name of a router specification in model files and messages.
template <class Recipe>
std::string router_text() {
  if constexpr (requires { Recipe::text(); })
    return Recipe::text();
  else
    return "your router";
}

// A decoder rejects a non-causal router specification, except inside AllowNonCausal.
template <class Recipe>
struct AllowNonCausal : Recipe {
  static constexpr bool causal = true, allows_non_causal = true;
  static std::string text()
    requires requires { Recipe::text(); }
  {
    return "AllowNonCausal<" + Recipe::text() + ">";
  }
};

// Whether `causal` is stated by AllowNonCausal. Specifications around others pass it on.
template <class Recipe>
inline constexpr bool allows_non_causal = requires { requires Recipe::allows_non_causal; };

// Accepts K = 1 with renormalised gates, for parity with other systems. The gate is constant, so only losses
// on scores, logits or loads train the router.
template <class Recipe>
struct AllowConstantGate : Recipe {
  static constexpr bool constant_gate = false;
  static std::string text()
    requires requires { Recipe::text(); }
  {
    return "AllowConstantGate<" + Recipe::text() + ">";
  }
};
template <class Recipe>
inline constexpr bool constant_gate = requires { requires Recipe::constant_gate; };

// Asserted by MoE layers and not by specifications, so that AllowConstantGate can wrap them.
template <class Recipe>
consteval bool gate_learns() {
  static_assert(
      !constant_gate<Recipe>,
      "router: K = 1 with renormalised gates never trains the router, its gate is constant: use "
      "Gates::probability (SigmoidRouter: .normalise = false; TopKRouterWith: ProbabilityGates), or "
      "AllowConstantGate<...> if that is meant");
  return true;
}

// For a specification Self around Recipe: the inner specification, allowed to be non-causal if Self is.
template <class Self, class Recipe>
using AllowedAs = std::conditional_t<Self::causal && !Recipe::causal, AllowNonCausal<Recipe>, Recipe>;

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
