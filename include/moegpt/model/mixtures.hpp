#pragma once
// The walk over a model's mixtures and what its last forward left of them, for balancing by rule and for metrics.
#include <moegpt/model/workspace.hpp>
#include <moegpt/moe/mixture.hpp>

namespace moegpt::inline MOEGPT_BUILD {

// What looks at the mixtures after a forward needs one that has returned, and a tape for every layer.
template <class Work>
void check_mixtures(const Work& work, const char* what) {
  check(work.use == Use::training, "the mixtures of an inference workspace share one tape: make it for training");
  check_forward(work, what);
}

// f(layer, mixture, tape) for every block whose mixture routes: its tape has a `plan`. Model and workspace may be
// const. Needs a workspace made for training, in which every layer has a tape of its own.
template <class Model, class Work, class F>
void for_each_mixture(Model& model, Work& work, F&& f) {
  check(work.use == Use::training, "the mixtures of an inference workspace share one tape: make it for training");
  for (int layer = 0; layer < Model::config.layers; ++layer)
    model.blocks.at_layer(layer, [&](auto& block, auto& tape) {
      if constexpr (HasPlan<decltype(tape.mixture)>) f(layer, block.mixture, tape.mixture);
    }, work.tape.blocks);
}

}  // namespace moegpt::inline MOEGPT_BUILD
