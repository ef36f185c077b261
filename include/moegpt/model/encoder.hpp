#pragma once
// Encoder: a Transformer with Mask::full as the first part of a model. Its features [tokens, D], on the tape
// of its workspace, are the Memory of a decoder.
#include <moegpt/model/batch.hpp>
#include <moegpt/model/mixture_check.hpp>
#include <moegpt/model/transformer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <Config C, class Recipe = Dense, class N = float, TrunkPart Part = TrunkPart{}>
  requires(make_a_model<Recipe, N>() && make_a_mixture<C, Recipe, N>())
struct Encoder {
  static_assert(C.mask == Mask::full, "Encoder: an encoder looks both ways: give its Config Mask::full");

  using T = ScalarOf<N>;
  using Scalar = T;
  using RouterRecipe = Recipe;
  using Trunk = Transformer<C, Recipe, N, Part>;
  using Workspace = moegpt::Workspace<Encoder>;
  static constexpr Config config = C;
  static constexpr int D = C.dim;
  static constexpr bool has_experts = Trunk::has_experts;

  Trunk trunk;
  ModelOptions options;

  static constexpr auto fields() { return Fields{Field{"", &Encoder::trunk}}; }

  struct Tape {
    typename Trunk::Tape trunk;
    Tokens<D, T> features;  // [tokens, D] output of the trunk
    void resize(const Pass& pass, Use use) {
      trunk.resize(pass, use);
      features.resize(pass);
    }
  };
  struct Scratch {
    typename Trunk::Scratch trunk;
    Tokens<D, T> d_features;  // input of backward
    void resize(const Pass& pass, Use use) {
      trunk.resize(pass, use);
      if (use == Use::training) d_features.resize(pass);
    }
  };

  // Writes work.tape.features and returns the router losses. ids [tokens] and what `given` points to (shape,
  // key, lengths, documents) as in Transformer::prepare. Throws std::invalid_argument for invalid ids or
  // shapes, NotFinite for a feature that is not finite.
  RouterLosses<double> forward(std::span<const int> ids, Pass given, Workspace& work,
                               const Objective& objective) const {
    given.options = options;
    Pass pass = trunk.prepare(ids, given, work, objective);
    Tape& tape = work.tape;
    tape.features.resize(pass);
    RouterLosses<double> losses;
    work.exec.region([&](const Exec& exec) {
      pass.exec = exec;
      losses = trunk.forward(ids, tape.features, tape.trunk, work.scratch.trunk, pass);
    });
    for (const T feature : tape.features.memory())
      if (!std::isfinite(feature))
        not_finite("feature of a source token", static_cast<double>(feature), first_not_finite(*this));
    work.last.complete = true;
    return losses;
  }

  // The memory of the last forward. Its lengths are those of the workspace.
  Memory<D, T> memory(const Workspace& work) const {
    check_forward(work, "Encoder::memory");
    return {work.tape.features, work.last.pass.shape.length, work.last.pass.lengths};
  }

  // grad += gradient of <features, work.scratch.d_features> + weight * the weighted router losses of the last
  // forward. std::invalid_argument for other ids.
  void backward(std::span<const int> ids, Workspace& work, Encoder& grad, double weight = 1) const {
    check_trains<N>();
    check(work.use == Use::training, "backward needs a workspace made for training");
    check_forward(work, "backward");
    RoutingContext routing = work.last.routing;
    Pass pass = work.last.with_routing(routing);
    check(std::ssize(ids) == pass.tokens() && routing.ids == ids.data(),
          "backward was called with other source ids than the last forward of this workspace");
    routing.objective = scaled(routing.objective, weight);
    work.exec.region([&](const Exec& exec) {
      pass.exec = exec;
      trunk.backward(ids, work.tape.trunk, work.scratch.d_features, grad.trunk, work.scratch.trunk, pass);
    });
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
