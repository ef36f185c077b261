#pragma once
// Learns the thresholds by which experts that choose tokens in training take them in evaluation and
// generation.
#include <moegpt/model/mixtures.hpp>
#include <moegpt/routing/expert_choice_router.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace detail {

// Wherever in the mixture a router with a threshold for each of its experts lies. Scores, because gates may
// be masked.
template <class Mixture, class T>
bool update_thresholds_of(Mixture& mixture, const RoutingPlan<T>& plan, MatrixView<const T> score,
                          double rate) {
  bool found = false;
  walk::each(
      [&](const walk::Path& path, const walk::Attributes& attributes, auto& threshold) {
        if (attributes.kind != Kind::buffer || path.name() != "threshold") return;
        if (threshold.size() != plan.experts) return;
        found = true;
        for (int e = 0; e < plan.experts; ++e) {
          if (plan.load(e) == 0) continue;
          T enough = score[plan.token[plan.offset[e]]][e];
          for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s)
            enough = std::min(enough, score[plan.token[s]][e]);
          move_threshold(threshold[e], enough, rate);
        }
      },
      mixture);
  return found;
}

}  // namespace detail

// For models with ThresholdExpertChoice: moves each threshold by `rate` towards the score that was just
// enough in the last forward of `work`, which must have had a key. Once per step; rate 0.01 remembers about a
// hundred batches. Throws std::invalid_argument if no router of the model has thresholds.
template <class Model>
void update_thresholds(Model& model, const typename Model::Workspace& work, double rate) {
  check(rate > 0 && rate <= 1, "update_thresholds: the rate is ", rate, ", but must lie in (0, 1]");
  check_mixtures(work, "update_thresholds");
  check(work.last.pass.key.has_value(),
        "update_thresholds: the last forward of this workspace had no key, so "
        "experts chose no tokens: thresholds are learned from training, forward(batch, work, key)");
  bool found = false;
  for_each_mixture(model, work, [&](int, auto& mixture, const auto& tape) {
    found |= detail::update_thresholds_of<std::remove_cvref_t<decltype(mixture)>, typename Model::Scalar>(
        mixture, tape.plan, tape.router.score, rate);
  });
  check(found,
        "update_thresholds: no router of this model has thresholds: that is for ThresholdExpertChoice");
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
