#pragma once
// Learns the thresholds by which experts that choose tokens in training take them in evaluation and generation.
#include <moegpt/model/mixtures.hpp>
#include <moegpt/moe/expert_choice_router.hpp>

namespace moegpt::inline MOEGPT_BUILD {

// For models with ThresholdExpertChoice: moves each threshold by `rate` towards the score that was just enough in the
// last forward of `work`, which must have had a key. Once per step; rate 0.01 remembers about a hundred batches.
template <class Model>
void update_thresholds(Model& model, const typename Model::Workspace& work, double rate) {
  check(rate > 0 && rate <= 1, "update_thresholds: the rate is ", rate, ", but must lie in (0, 1]");
  check_mixtures(work, "update_thresholds");
  check(work.tape.pass.key.has_value(), "update_thresholds: the last forward of this workspace had no key, so experts "
        "chose no tokens: thresholds are learned from training, forward(batch, work, key)");
  for_each_mixture(model, work, [&](int, auto& mixture, const auto& tape) {
    if constexpr (requires { mixture.router.threshold; })
      if (!mixture.router.threshold.empty()) update_thresholds(mixture.router, tape.plan, rate);
  });
}

}  // namespace moegpt::inline MOEGPT_BUILD
