#pragma once
// Top-k routing: z = W x, each token goes to the K experts with the largest logits (Shazeer et al. 2017; Switch
// is K = 1 with probability gates). Equal logits: the lower expert.
#include <moegpt/moe/token_choice.hpp>

namespace moegpt::inline MOEGPT_BUILD {

// The general form: gates by any rule (moe/gates.hpp).
template <int E, int K, class GatesType, bool HasBias = false>
struct TopKRouterWith
    : TokenChoiceRouter<E, K, Decisions<SoftmaxScores, LargestLogits, GatesType>, LinearLogits<HasBias>> {};
static_assert(Router<TopKRouterWith<4, 2, RenormalisedGates>>);

struct TopK {
  Gates gates = Gates::renormalised;
  bool bias = false;
  bool constant_gate = false;   // set by AllowConstantGate
};

// K = 1 takes the probability as its gate: renormalised it would be 1 whatever the router says.
template <int E, int K, TopK Options = TopK{.gates = K == 1 ? Gates::probability : Gates::renormalised}>
struct TopKRouter : TopKRouterWith<E, K, GateRule<Options.gates>, Options.bias> {
  static_assert(K > 1 || Options.gates == Gates::probability || Options.constant_gate,
                "TopKRouter: K = 1 with renormalised gates never trains the router, its gate is the constant 1: "
                "use Gates::probability, or AllowConstantGate<...> if that is meant");
  static std::string text() {
    const bool usual = Options.gates == (K == 1 ? Gates::probability : Gates::renormalised) && !Options.bias;
    const char* gates = Options.gates == Gates::renormalised ? "renormalised" : "probability";
    const std::string text = "TopKRouter<" + std::to_string(E) + ", " + std::to_string(K) +
                             (usual ? std::string() : std::string(", TopK{.gates = Gates::") + gates +
                                                          (Options.bias ? ", .bias = true}" : "}")) + ">";
    return Options.constant_gate ? "AllowConstantGate<" + text + ">" : text;
  }
};
static_assert(lists_every_field<TopKRouter<4, 2>::For<4>>());
static_assert(Router<TopKRouter<4, 2>>);

template <int E, int K, TopK Options>
struct AllowConstantGate<TopKRouter<E, K, Options>>
    : TopKRouter<E, K, TopK{.gates = Options.gates, .bias = Options.bias, .constant_gate = true}> {};

}  // namespace moegpt::inline MOEGPT_BUILD
