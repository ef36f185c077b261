#pragma once
// The dense mixture (Jacobs et al. 1991): every token goes to all experts, and its gates are softmax(W x). It is
// TopKRouter<E, E> with probability gates, without the sorting; use it to see what sparsity costs.
#include <moegpt/moe/token_choice.hpp>

namespace moegpt::inline MOEGPT_BUILD {

template <int E, bool HasBias = false>
struct AllExperts
    : TokenChoiceRouter<E, E, Decisions<SoftmaxScores, EveryExpert, ProbabilityGates>, LinearLogits<HasBias>> {
  static std::string text() { return "AllExperts<" + std::to_string(E) + (HasBias ? ", true>" : ">"); }
};
static_assert(lists_every_field<AllExperts<4>::For<4>>());
static_assert(Router<AllExperts<4>>);

}  // namespace moegpt::inline MOEGPT_BUILD
