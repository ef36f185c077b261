#pragma once
// Classifier of sequences or tokens: a Transformer and a classification head. Batch::targets are the labels:
// one class for each sequence (for each token with Pooling::none), below 0 to ignore it. An encoder
// (Mask::full) reads the whole sequence; in a decoder the last token does (Pooling::last).
#include <moegpt/model/batch_pass.hpp>
#include <moegpt/model/class_head.hpp>
#include <moegpt/model/mixture_check.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// To start from a trained GPT of the same config and router: classifier.trunk = gpt.trunk.
template <Config C, class Recipe, int Classes, Pooling P = Pooling::mean, class N = float,
          Layer Map = Linear<C.dim, Classes, N>>
struct Classifier {
  static_assert(make_a_mixture<C, Recipe, N>());
  static_assert(P != Pooling::first || C.mask == Mask::full,
                "Classifier: under a causal mask the first token sees no other: take Pooling::last, or a "
                "config with Mask::full");
  using T = ScalarOf<N>;
  using Scalar = T;
  using RouterRecipe = Recipe;
  using Trunk = Transformer<C, Recipe, N>;
  using HeadType = ClassHead<C.dim, Classes, P, N, Map>;
  using Workspace = moegpt::Workspace<Classifier>;
  static constexpr Config config = C;
  static constexpr int D = C.dim, classes = Classes;
  static constexpr std::string_view type_name = "Classifier";  // in the text of its type
  static constexpr bool has_experts = Trunk::has_experts;

  Trunk trunk;
  HeadType head;
  ModelOptions options;

  static constexpr auto fields() {
    return Fields{Field{"", &Classifier::trunk}, Field{"head", &Classifier::head}};
  }
  struct Tape {
    typename Trunk::Tape trunk;
    Tokens<D, T> normed;  // [tokens, D] output of the trunk
    typename HeadType::Tape head;
    void resize(const Pass& pass, Use use) {
      trunk.resize(pass, use);
      resize_all(pass, normed, head);
    }
  };
  struct Scratch {
    typename Trunk::Scratch trunk;
    Tokens<D, T> d_normed;
    typename HeadType::Scratch head;
    void resize(const Pass& pass, Use use) {
      trunk.resize(pass, use);
      head.resize(pass, use);
      if (use == Use::training) d_normed.resize(pass);
    }
  };

  // Number of labels of a batch.
  static Index targets_in(Shape shape) { return HeadType::rows_of(shape); }

  // Mean cross-entropy of the labels, and the losses of the routers; without labels only the logits, in
  // work.tape.head. key: RNG key of noise and dropout; none: evaluation. Throws as GPT::forward.
  ClassLoss forward(const Batch& batch, Workspace& work, std::optional<Key> key = {}) const {
    return forward(batch, work, key, work.objective);
  }
  // The same with another objective than the workspace's.
  ClassLoss forward(const Batch& batch, Workspace& work, std::optional<Key> key,
                    const Objective& objective) const {
    HeadType::check_labels(batch.targets, batch.shape);
    Pass pass = prepare_batch(trunk, batch, options, key, work, objective);
    Tape& tape = work.tape;
    tape.normed.resize(pass);
    ClassLoss loss;
    work.exec.region([&](const Exec& exec) {
      pass.exec = exec;
      loss = {{trunk.forward(batch.inputs, tape.normed, tape.trunk, work.scratch.trunk, pass)}};
      head.forward(tape.normed, batch.targets, tape.head, work.scratch.head, pass.at_layer(C.layers), loss);
    });
    check_finite(loss.total(objective), tape.head.logits.memory(), *this);
    work.last.complete = true, work.last.targets = batch.targets.data();
    return loss;
  }

  // grad += d(weight * loss.total(objective)) of the last forward of `work`. Throws as GPT::backward.
  void backward(const Batch& batch, Workspace& work, Classifier& grad, double weight = 1) const {
    check_trains<N>();
    RoutingContext routing;
    Pass pass = pass_of_backward(batch, work, routing, weight);
    check_targets(batch.targets, work.last.targets, targets_in(pass.shape));
    const Tape& tape = work.tape;
    Scratch& scratch = work.scratch;
    scratch.d_normed.resize(pass);
    work.exec.region([&](const Exec& exec) {
      pass.exec = exec;
      head.backward(tape.normed, tape.head, scratch.d_normed, grad.head, scratch.head,
                    pass.at_layer(C.layers), weight);
      trunk.backward(batch.inputs, tape.trunk, scratch.d_normed, grad.trunk, scratch.trunk, pass);
    });
  }

  // The most probable class of each sequence or token; of padding: unspecified.
  std::vector<int> predict(Batch batch, Workspace& work) const {
    batch.targets.clear();
    forward(batch, work, {}, Objective{});
    std::vector<int> found(static_cast<std::size_t>(targets_in(batch.shape)));
    for (std::size_t i = 0; i < found.size(); ++i) found[i] = work.tape.head.predicted(static_cast<Index>(i));
    return found;
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
