#pragma once
// Evaluation: mean cross-entropy over random batches, or over every token of a text.
#include <moegpt/model/gpt.hpp>
#include <moegpt/train/corpus.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Mean over `batches` random batches of the workspace's shape, which are a function of the key, in nats per
// token. `noise`: for models whose routers are noisy in evaluation, too (makeMoE). No dropout.
template <class Model>
double estimate_loss(const Model& model, TokenView tokens, Workspace<Model>& work, int batches, Key key,
                     std::optional<Key> noise = {}) {
  check(batches > 0, "estimate_loss: a mean over ", batches, " batches was asked for, at least 1 is needed");
  Batch batch{work.shape};
  double total = 0;
  for (int i = 0; i < batches; ++i) {
    const auto number = static_cast<std::uint64_t>(i);
    sample_batch(tokens, batch, key.with(Purpose::evaluation, number));
    if (noise) noise = key.with(Purpose::step, number);
    total += model.forward(batch, work, noise, Objective{}).cross_entropy;
  }
  return total / batches;
}

// Mean over the whole text, in windows of the workspace's length that do not overlap, in nats per token.
template <class Model>
double evaluate(const Model& model, TokenView tokens, Workspace<Model>& work) {
  const Windows windows{tokens, work.shape.batch, work.shape.length};
  Batch batch;
  double total = 0;
  for (Index i = 0; i < windows.size(); ++i) {
    windows.read(i, batch);
    total +=
        model.forward(batch, work, {}, Objective{}).cross_entropy * static_cast<double>(batch.shape.tokens());
  }
  return total / static_cast<double>(tokens.size() - 1);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
