#pragma once
// A Transformer as a model, for gradcheck: its loss is <y, dy> with a fixed random dy, plus its routers'
// losses.
#include <moegpt/model/batch.hpp>
#include <moegpt/model/transformer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace testing {

template <class X>
inline constexpr bool is_transformer = false;
template <Config C, class Recipe, class T>
inline constexpr bool is_transformer<Transformer<C, Recipe, T>> = true;

template <class TrunkType>
struct TrunkProbe {
  using Trunk = TrunkType;
  using Scalar = typename Trunk::Scalar;
  using Workspace = moegpt::Workspace<TrunkProbe>;
  static constexpr Config config = Trunk::config;

  Trunk trunk;
  ModelOptions options;

  static constexpr auto fields() { return Fields{Field{"", &TrunkProbe::trunk}}; }

  struct Tape {
    typename Trunk::Tape trunk;
    Tokens<Trunk::D, Scalar> y, dy;
    void resize(const Pass& pass, Use use) {
      trunk.resize(pass, use);
      resize_all(pass, y, dy);
    }
  };
  using Scratch = typename Trunk::Scratch;

  struct Loss : RouterLosses<double> {
    double product = 0;  // <y, dy>
    double total(const Objective& o) const { return product + weighted(o, *this); }
  };

  // Targets are not read. dy is zero where a token is padding.
  Loss forward(const Batch& batch, Workspace& work, std::optional<Key> key = {}) const {
    const Index* lengths = batch.lengths.empty() ? nullptr : batch.lengths.data();
    const Pass given{.shape = batch.shape, .options = options, .key = key, .lengths = lengths};
    const Pass pass = trunk.prepare(batch.inputs, given, work, work.objective);
    auto& [trunk_tape, y, dy] = work.tape;
    resize_all(pass, y, dy);
    Loss loss{trunk.forward(batch.inputs, y, trunk_tape, work.scratch, pass)};
    Rng rng(1);
    for (Index n = 0; n < pass.tokens(); ++n)
      for (int i = 0; i < Trunk::D; ++i) {
        dy[n][i] = pass.is_padding(n) ? Scalar(0) : static_cast<Scalar>(rng.normal());
        loss.product += static_cast<double>(y[n][i] * dy[n][i]);
      }
    work.last.complete = true;
    return loss;
  }
  void backward(const Batch& batch, Workspace& work, TrunkProbe& grad) const {
    check_forward(work, "backward");
    trunk.backward(batch.inputs, work.tape.trunk, work.tape.dy, grad.trunk, work.scratch,
                   work.last.with_routing(work.last.routing));
  }
};

}  // namespace testing
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
