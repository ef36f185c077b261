#pragma once
// Sigmoid routing (DeepSeek-V3; torchtitan, Megatron): independent scores s = sigmoid(W x). Selected: the K
// largest s + b, optionally in the best expert groups only. Gates from s, without b:
//   g_j = a s_j / sum of the selected s     or, not normalised,     g_j = a s_j
// balance_selection updates the selection bias b; it has no gradient.
#include <moegpt/routing/token_choice.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct Sigmoid {
  bool normalise = true;       // gates of a token sum to a (route_norm, norm_topk_prob)
  bool selection_bias = true;  // b (e_score_correction_bias); without, b = 0
  int groups = 1;              // expert groups (DeepSeek-V3: 8)
  int groups_kept = 0;         // retained groups (DeepSeek-V3: 4); required if groups > 1
  bool root_softplus = false;  // s = sqrt(softplus(z)) (Megatron)
  constexpr int kept() const { return groups == 1 ? 1 : groups_kept; }
  bool operator==(const Sigmoid&) const = default;
};

// Scale: a, a std::ratio (DeepSeek-V3's routed_scaling_factor: 5/2).
template <int E, int K, Sigmoid Options = Sigmoid{.normalise = (K > 1)}, class Scale = std::ratio<1>>
struct SigmoidRouter
    : TokenChoiceRouter<
          E, K,
          Decisions<std::conditional_t<Options.root_softplus, RootSoftplusScores, SigmoidScores>,
                    LargestScores<Options.selection_bias, Options.groups, Options.kept()>,
                    std::conditional_t<Options.normalise, PNormGates<1, Scale>, ScoreGates<Scale>>>> {
  static_assert(Scale::num > 0 && Scale::den > 0, "SigmoidRouter: the scale must be more than 0");
  static_assert(Options.groups >= 1 && E % Options.groups == 0,
                "SigmoidRouter: groups must divide the number of experts");
  static_assert(Options.kept() >= 1 && Options.kept() <= Options.groups,
                "SigmoidRouter: with groups, groups_kept must be given and lie in 1 .. groups");
  static_assert(Options.groups > 1 || (Options.groups_kept >= 0 && Options.groups_kept <= 1),
                "SigmoidRouter: groups_kept is given, but there is one group: give groups, too");
  static_assert(Options.kept() * (E / Options.groups) >= K,
                "SigmoidRouter: the groups kept hold fewer than K experts: keep more groups");
  static std::string text() {
    std::string options;
    if (Options != Sigmoid{.normalise = (K > 1)} || Scale::num != Scale::den)
      options = ", Sigmoid{.normalise = " + text_of(Options.normalise) +
                ", .selection_bias = " + text_of(Options.selection_bias) +
                ", .groups = " + std::to_string(Options.groups) +
                ", .groups_kept = " + std::to_string(Options.groups_kept) +
                ", .root_softplus = " + text_of(Options.root_softplus) + "}, " + text_of<Scale>();
    return "SigmoidRouter<" + std::to_string(E) + ", " + std::to_string(K) + options + ">";
  }
};
static_assert(lists_every_field<SigmoidRouter<4, 2>::For<4>>());
static_assert(Router<SigmoidRouter<4, 2>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
