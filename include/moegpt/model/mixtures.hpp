#pragma once
// Traversal of a model's MoE layers and their tapes after a forward, for selection biases and metrics.
#include <moegpt/model/workspace.hpp>
#include <moegpt/moe/mixture.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// The Transformer in a model, gradient, tape or scratch: its member `trunk`, or x itself.
template <class X>
constexpr auto& trunk_of(X& x) {
  if constexpr (requires { x.trunk; })
    return x.trunk;
  else
    return x;
}

// std::invalid_argument unless each layer has its own tape.
template <class Work>
void check_tapes(const Work& work) {
  check(work.use != Use::inference,
        "the mixtures of an inference workspace share one tape: make it for "
        "training, or with Use::inspection");
}
// The same, and unless the workspace's last forward has returned.
template <class Work>
void check_mixtures(const Work& work, const char* what) {
  check_tapes(work);
  check_forward(work, what);
}

// f(layer, mixture, tape) for every MoE layer with a routing plan, tape.plan. Model and workspace may be
// const. std::invalid_argument for an inference workspace.
template <class Model, class Work, class F>
void for_each_mixture(Model& model, Work& work, F&& f) {
  check_tapes(work);
  for (int layer = 0; layer < Model::config.layers; ++layer)
    trunk_of(model).blocks.at_layer(
        layer,
        [&](auto& block, auto& tape) {
          if constexpr (HasPlan<decltype(tape.mixture)>) f(layer, block.mixture, tape.mixture);
        },
        trunk_of(work.tape).blocks);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
