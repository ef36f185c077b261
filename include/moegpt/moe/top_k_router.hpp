#pragma once
// Top-k routing: z = W x, each token goes to the K experts with the largest logits (Shazeer et al. 2017; Switch
// is K = 1 with probability gates). Equal logits: the lower expert.
#include <moegpt/moe/token_choice.hpp>

namespace moegpt::inline MOEGPT_BUILD {

struct TopK {
  Gates gates = Gates::renormalised;
  bool bias = false;
  bool selection_bias = false;   // the K largest s + b, with b moved by balance_selection (Wang et al. 2024)
};

// K = 1 takes the probability as its gate: renormalised it would be 1 whatever the router says.
template <int E, int K, TopK Options = TopK{.gates = K == 1 ? Gates::probability : Gates::renormalised}>
struct TopKRouter
    : TokenChoiceRouter<E, K,
                        Decisions<SoftmaxScores,
                                  std::conditional_t<Options.selection_bias, LargestScores<true>, LargestLogits>,
                                  GateRule<Options.gates>>,
                        LinearLogits<Options.bias>> {
  static std::string text() {
    std::string options;
    if (Options.gates != (K == 1 ? Gates::probability : Gates::renormalised) || Options.bias || Options.selection_bias)
      options = ", TopK{.gates = " + text_of(Options.gates) + (Options.bias ? ", .bias = true" : "") +
                (Options.selection_bias ? ", .selection_bias = true}" : "}");
    return "TopKRouter<" + std::to_string(E) + ", " + std::to_string(K) + options + ">";
  }
};
static_assert(lists_every_field<TopKRouter<4, 2>::For<4>>());
static_assert(Router<TopKRouter<4, 2>>);
static_assert(Router<TopKRouter<4, 2, TopK{.selection_bias = true}>>);

// The general form: gates by any rule (moe/gates.hpp).
template <int E, int K, class GatesType, bool HasBias = false>
struct TopKRouterWith
    : TokenChoiceRouter<E, K, Decisions<SoftmaxScores, LargestLogits, GatesType>, LinearLogits<HasBias>> {
  static std::string text() requires requires { GatesType::text(); } {
    return "TopKRouterWith<" + std::to_string(E) + ", " + std::to_string(K) + ", " + GatesType::text() +
           (HasBias ? ", true>" : ">");
  }
};
static_assert(Router<TopKRouterWith<4, 2, PNormGates<2>>>);

}  // namespace moegpt::inline MOEGPT_BUILD
