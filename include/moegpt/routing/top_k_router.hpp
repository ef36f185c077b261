#pragma once
// Top-k routing (Shazeer et al. 2017; Switch: K = 1 with probability gates): z = W x, each token selects the
// K largest logits. Ties: the lower expert first.
#include <moegpt/routing/token_choice.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct TopK {
  Gates gates = Gates::renormalised;
  bool bias = false;
  bool selection_bias = false;  // the K largest s + b; balance_selection updates b (Wang et al. 2024)
};

// For K = 1 the default gate is the probability: a renormalised gate would be the constant 1.
template <int E, int K, TopK Options = TopK{.gates = K == 1 ? Gates::probability : Gates::renormalised}>
struct TopKRouter
    : TokenChoiceRouter<
          E, K,
          Decisions<SoftmaxScores,
                    std::conditional_t<Options.selection_bias, LargestScores<true>, LargestLogits>,
                    GateRule<Options.gates>>,
          LinearLogits<Options.bias>> {
  static std::string text() {
    std::string options;
    if (Options.gates != (K == 1 ? Gates::probability : Gates::renormalised) || Options.bias ||
        Options.selection_bias)
      options = ", TopK{.gates = " + text_of(Options.gates) + (Options.bias ? ", .bias = true" : "") +
                (Options.selection_bias ? ", .selection_bias = true}" : "}");
    return "TopKRouter<" + std::to_string(E) + ", " + std::to_string(K) + options + ">";
  }
};
static_assert(lists_every_field<TopKRouter<4, 2>::For<4>>());
static_assert(Router<TopKRouter<4, 2>>);
static_assert(Router<TopKRouter<4, 2, TopK{.selection_bias = true}>>);

// Top-k with any gate rule (routing/gates.hpp).
template <int E, int K, class GatesType, bool HasBias = false>
struct TopKRouterWith
    : TokenChoiceRouter<E, K, Decisions<SoftmaxScores, LargestLogits, GatesType>, LinearLogits<HasBias>> {
  static std::string text()
    requires requires { GatesType::text(); }
  {
    return "TopKRouterWith<" + std::to_string(E) + ", " + std::to_string(K) + ", " + GatesType::text() +
           (HasBias ? ", true>" : ">");
  }
};
static_assert(Router<TopKRouterWith<4, 2, PNormGates<2>>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
