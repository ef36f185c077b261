#pragma once
// Dense FFN in the place of an MoE layer: one expert that processes every token.
#include <moegpt/layers/layer.hpp>
#include <moegpt/moe/experts.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// In place of a router: every block of a model has a dense feed-forward network.
struct Dense {};

template <ExpertNetwork ExpertType>
struct FeedForward {
  using Scalar = typename ExpertType::Scalar;
  using T = Scalar;
  static constexpr int D = ExpertType::dim, DOut = output_dim<ExpertType>(), dim_in = D, dim_out = DOut;
  static constexpr bool causal = true;
  static constexpr std::string_view name = "ffn";

  ExpertType network;

  static constexpr auto fields() { return Fields{Field{"", &FeedForward::network}}; }
  struct Tape {
    typename ExpertsView<ExpertType>::Tape network;
    void resize(const Pass& pass) { network.resize(pass.tokens()); }
  };
  struct Scratch {
    typename ExpertsView<ExpertType>::Scratch network;
    void resize(const Pass& pass) { network.resize(1, pass.tokens()); }
  };

  void forward(In<D, T> x, Out<DOut, T> y, Tape& tape, Scratch& scratch, const Pass& pass) const {
    pass.check_fits(x.count, y.count);
    tape.resize(pass);
    scratch.resize(pass);
    const Index all[2] = {0, x.count};
    expert().forward(x, {all}, y, tape.network, scratch.network, pass, expert_dropout(pass.dropout, pass));
  }

  void backward(In<D, T> x, const Tape& tape, In<DOut, T> dy, Out<D, T> dx, FeedForward& grad,
                Scratch& scratch, const Pass& pass) const {
    scratch.resize(pass);
    const Index all[2] = {0, x.count};
    expert().backward(x, {all}, tape.network, dy, nullptr, dx, nullptr, scratch.network, pass);
    expert().backward_weights(x, {all}, tape.network, &grad.network, scratch.network, pass);
  }

 private:
  ExpertsView<ExpertType> expert() const { return {&network, 1, -1}; }
};
static_assert(lists_every_field<FeedForward<Expert<2, 3>>>());
static_assert(Layer<FeedForward<Expert<2, 3>>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
