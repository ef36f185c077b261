#pragma once
// GShard's top-2 (Lepikhin et al. 2020; Mesh-TensorFlow): the two gates are divided by their sum, then the
// second expert may be discarded. The first gate is not renormalised afterwards.
#include <moegpt/routing/token_choice.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Which tokens keep their second expert; g2 is its gate.
enum class Second {
  all,
  none,
  threshold,  // tokens with g2 > threshold
  random,     // with a key, each token with probability min(1, g2 / threshold); without, all
};

template <Second Policy, class Threshold>
struct TwoLargest : LargestLogits {
  template <class T>
  static bool keeps(const Candidate<T>& token, T gate, int choice) {
    constexpr T threshold = T(Threshold::num) / T(Threshold::den);
    if (choice == 0 || Policy == Second::all) return true;
    if (Policy == Second::none) return false;
    if (Policy == Second::threshold) return gate > threshold;
    if (!token.noise) return true;
    const auto number = static_cast<std::uint64_t>(token.pass.number_of(token.token));
    return token.noise->uniform(number) * threshold < gate;
  }
};

template <int E, Second Policy = Second::random, class Threshold = std::ratio<1, 5>>
struct GShardRouter
    : TokenChoiceRouter<E, 2, Decisions<SoftmaxScores, TwoLargest<Policy, Threshold>, RenormalisedGates>> {
  static_assert(Threshold::num > 0 && Threshold::num <= Threshold::den,
                "GShardRouter: the threshold must be more than 0 and at most 1");
  static std::string text() {
    constexpr const char* policies[] = {"all", "none", "threshold", "random"};
    return "GShardRouter<" + std::to_string(E) + ", Second::" + policies[static_cast<int>(Policy)] + ", " +
           text_of<Threshold>() + ">";
  }
};
static_assert(lists_every_field<GShardRouter<4>::For<4>>());
static_assert(Router<GShardRouter<4>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
