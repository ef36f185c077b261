#pragma once
// Dense MoE (Jacobs et al. 1991): every token has all experts, with gates softmax(W x), like TopKRouter<E, E>
// with probability gates but without the sort. Use it to measure what sparsity costs in quality.
#include <moegpt/routing/token_choice.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <int E, bool HasBias = false>
struct AllExperts : TokenChoiceRouter<E, E, Decisions<SoftmaxScores, EveryExpert, ProbabilityGates>,
                                      LinearLogits<HasBias>> {
  static std::string text() { return "AllExperts<" + std::to_string(E) + (HasBias ? ", true>" : ">"); }
};
static_assert(lists_every_field<AllExperts<4>::For<4>>());
static_assert(Router<AllExperts<4>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
