#pragma once
// What a router is. A recipe (TopKRouter<8, 2>) says how many experts there are and how many a token gets;
// its For<D, T> holds the weights of a router of width D. A router receives tokens and the pass, and fills a
// routing plan; it knows nothing of experts. Backward hands it a RouterSignal: the gradient of each slot's
// gate, and the gradients of the losses on scores, logits and loads.
#include <moegpt/layers/layer.hpp>
#include <moegpt/moe/routing_plan.hpp>

namespace moegpt::inline MOEGPT_BUILD {

// What reaches a router in backward.
template <class T>
struct RouterSignal {
  const T* d_weight = nullptr;       // [slots] of the gates
  const T* d_mean_score = nullptr;   // [groups, E] of the mean over a group's tokens of the full scores; null: none
  T z = 0;                           // coefficient of the z-loss, mean over tokens of lse^2
  Group group = Group::batch;        // of d_mean_score
  const T* d_load = nullptr;         // [E] of the smooth load, for routers whose tape has one; null: none
  const T* d_score = nullptr;        // [tokens, E] of the full scores themselves; null: none
  T own = 0;                         // coefficient of the router's own loss, for routers whose tape has one

  // What reaches the full scores of token n: ds[e] += d_score[n][e] + d_mean_score[group][e] / tokens of it.
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

// For<D, T>: a router with weights.
template <class R>
concept RouterOf = requires(const R router, R grad, typename R::Tape tape, const typename R::Tape read_tape,
                            typename R::Scratch scratch, RoutingPlan<typename R::Scalar> plan,
                            const RoutingPlan<typename R::Scalar> read_plan,
                            RouterSignal<typename R::Scalar> signal, In<R::dim, typename R::Scalar> x,
                            Sum<R::dim, typename R::Scalar> dx, const Pass pass) {
  R::fields();
  tape.resize(pass);
  scratch.resize(pass);
  router.forward(x, plan, tape, pass);
  router.backward(x, read_plan, read_tape, signal, dx, grad, scratch, pass);
  { read_tape.score[0] };   // [E] full scores of each token, for balance losses and metrics
  { read_tape.lse[0] };     // log sum exp of its logits, for the z-loss
};

// What else a tape tells, if it says so: `static constexpr bool has_choices = true`. Without the word a member of the
// same name is the router's own affair.
//   chosen     Buffer<int> [tokens, K], what plan.assign was given; negative: none
//   selected   likewise, before some were left out by their gates
//   load       Buffer<T> [E] of which signal.d_load is the gradient
//   own_loss   T, a loss of the router's own; its backward adds the gradient of signal.own * own_loss
template <class Tape>
concept HasChoices = requires { requires Tape::has_choices; };
template <class Tape>
concept HasSelected = requires { requires Tape::has_selected; };
template <class Tape>
concept HasSmoothLoad = requires { requires Tape::has_smooth_load; };
template <class Tape>
concept HasOwnLoss = requires { requires Tape::has_own_loss; };

// The recipe. `active` is the most experts a token can have; `causal` says that a token's route depends on
// nothing after it.
template <class Recipe>
concept Router = requires {
  { Recipe::experts } -> std::convertible_to<int>;
  { Recipe::active } -> std::convertible_to<int>;
  { Recipe::causal } -> std::convertible_to<bool>;
} && RouterOf<typename Recipe::template For<4, float>>;

// The most slots that the tokens of a pass can fill, for which mixtures reserve memory: all their choices, unless the
// recipe says that it uses fewer, `static Index places(const Pass& pass)`. It must not fall with the size of the pass.
template <class Recipe>
concept SaysPlaces = requires(const Pass pass) {
  { Recipe::places(pass) } -> std::convertible_to<Index>;
};
template <class Recipe>
Index places_of(const Pass& pass) {
  const Index all = pass.tokens() * Recipe::active;
  if constexpr (SaysPlaces<Recipe>) return std::min<Index>(Recipe::places(pass), all);
  else return all;
}

// What a recipe calls itself in model files and messages.
template <class Recipe>
std::string router_text() {
  if constexpr (requires { Recipe::text(); }) return Recipe::text();
  else return "your router";
}

// A decoder refuses a router that looks into the future unless it is asked for by this name.
template <class Recipe>
struct AllowNonCausal : Recipe {
  static constexpr bool causal = true;
  static std::string text() requires requires { Recipe::text(); } {
    return "AllowNonCausal<" + Recipe::text() + ">";
  }
};

// K = 1 with renormalised gates: the gate is constant, so only losses on scores, logits or loads train the
// router. For parity with systems that have it.
template <class Recipe>
struct AllowConstantGate : Recipe {
  static constexpr bool constant_gate = false;
  static std::string text() requires requires { Recipe::text(); } {
    return "AllowConstantGate<" + Recipe::text() + ">";
  }
};
template <class Recipe>
inline constexpr bool constant_gate = requires { requires Recipe::constant_gate; };

// A mixture asks, and no recipe's body: a recipe inside AllowConstantGate is fine.
template <class Recipe>
consteval bool gate_learns() {
  static_assert(!constant_gate<Recipe>,
                "router: K = 1 with renormalised gates never trains the router, its gate is constant: use "
                "Gates::probability (SigmoidRouter: .normalise = false; TopKRouterWith: ProbabilityGates), or "
                "AllowConstantGate<...> if that is meant");
  return true;
}

// What a recipe around Recipe gives its inner layer: if the whole was allowed, so is the part.
template <class Self, class Recipe>
using AllowedAs = std::conditional_t<Self::causal && !Recipe::causal, AllowNonCausal<Recipe>, Recipe>;

}  // namespace moegpt::inline MOEGPT_BUILD
