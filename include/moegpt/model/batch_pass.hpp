#pragma once
// The pass of a batch, for models of a trunk with heads: argument checks before forward and backward, and of
// the numbers after forward.
#include <moegpt/model/batch.hpp>
#include <moegpt/model/checks.hpp>
#include <moegpt/model/workspace.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Transformer::prepare for a batch. std::invalid_argument for invalid ids, shapes, lengths or documents.
template <class Trunk, class Model>
Pass prepare_batch(const Trunk& trunk, const Batch& batch, const ModelOptions& options,
                   std::optional<Key> key, Workspace<Model>& work, const Objective& objective) {
  check_lengths(batch.lengths, batch.shape);
  check(batch.documents.empty() || std::ssize(batch.documents) == batch.shape.tokens(), "the batch has ",
        batch.documents.size(), " documents for ", batch.shape.tokens(),
        " tokens: one each, or none if a token may attend to its whole sequence");
  return trunk.prepare(batch.inputs,
                       {.shape = batch.shape,
                        .options = options,
                        .key = key,
                        .lengths = batch.lengths.empty() ? nullptr : batch.lengths.data(),
                        .documents = batch.documents.empty() ? nullptr : batch.documents.data()},
                       work, objective);
}

// The pass of the last forward of `work`, for backward. `routing` receives its context, with the objective
// multiplied by `weight`, and must live as long. std::invalid_argument unless this was a forward of the same
// batch in a workspace made for training.
template <class Model>
Pass pass_of_backward(const Batch& batch, const Workspace<Model>& work, RoutingContext& routing,
                      double weight) {
  check(work.use == Use::training, "backward needs a workspace made for training");
  check_forward(work, "backward");
  routing = work.last.routing;
  const Pass pass = work.last.with_routing(routing);
  check(pass.shape == batch.shape && routing.ids == batch.inputs.data(),
        "backward was called with another batch than the last forward of this workspace");
  check(weight >= 0 && std::isfinite(weight), "backward: the weight of this batch is ", weight,
        ", expected a finite number, 0 or more");
  routing.objective = scaled(routing.objective, weight);
  return pass;
}

// Throws NotFinite if a loss or a logit is not finite.
template <class T, class Model>
void check_finite(double loss, const Buffer<T>& logits, const Model& model) {
  if (!std::isfinite(loss)) not_finite("loss", loss, first_not_finite(model));
  for (const T logit : logits)
    if (!std::isfinite(logit))
      not_finite("logit of a class", static_cast<double>(logit), first_not_finite(model));
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
