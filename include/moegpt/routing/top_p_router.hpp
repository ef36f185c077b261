#pragma once
// Top-p routing (Huang et al. 2024): the fewest experts whose probabilities sum to at least p, at most K. A
// peaked distribution selects one, a flat one up to K.
#include <moegpt/routing/token_choice.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// P: a std::ratio in (0, 1]. TopPRouter<8, 4, std::ratio<3, 5>>: at most 4 of 8 experts, p = 0.6.
template <int E, int K, class P = std::ratio<1, 2>, Gates GatesRule = Gates::renormalised>
struct TopPRouter : TokenChoiceRouter<E, K, Decisions<SoftmaxScores, Nucleus<P>, GateRule<GatesRule>>> {
  static_assert(P::num > 0 && P::num <= P::den, "TopPRouter: p must be more than 0 and at most 1");
  static std::string text() {
    return "TopPRouter<" + std::to_string(E) + ", " + std::to_string(K) + ", " + text_of<P>() + ", " +
           text_of(GatesRule) + ">";
  }
};
static_assert(lists_every_field<TopPRouter<4, 3>::For<4>>());
static_assert(Router<TopPRouter<4, 3>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
