#pragma once
// A dense feed-forward network in the place of a mixture: one expert for every token.
#include <moegpt/kernels/dropout.hpp>
#include <moegpt/layers/expert.hpp>

namespace moegpt::inline MOEGPT_BUILD {

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
    typename ExpertType::Tape network;
    double dropout = 0;
    Key noise{};
    void resize(const Pass& pass) { network.resize(pass.tokens()); }
  };
  struct Scratch {
    typename ExpertType::Scratch network;
    Tokens<DOut, T> d_output;
    [[gnu::noinline]] void resize(const Pass& pass) {
      network.resize(pass.tokens());
      d_output.resize(pass.tokens());
    }
  };

  void forward(In<D, T> x, Out<DOut, T> y, Tape& tape, Scratch& scratch, const Pass& pass) const {
    pass.check_fits(x.count, y.count);
    tape.resize(pass);
    scratch.resize(pass);
    tape.dropout = pass.applied_dropout();
    tape.noise = pass.key ? pass.key->with(Purpose::expert_dropout) : Key{};
    for_each_piece(pass.exec, x.count, expert_rows(x.count), [&](Rows rows) {
      network.forward(x.rows(rows), y.rows(rows), tape.network, scratch.network, rows);
      drop_rows(tape, y.rows(rows), rows, pass);
    });
  }

  void backward(In<D, T> x, const Tape& tape, In<DOut, T> dy, Out<D, T> dx, FeedForward& grad, Scratch& scratch,
                const Pass& pass) const {
    scratch.resize(pass);
    const Out<DOut, T> d_output = scratch.d_output;
    for_each_piece(pass.exec, x.count, expert_rows(x.count), [&](Rows rows) {
      std::memcpy(d_output[rows.first], dy[rows.first], bytes_of<T>(rows.count * DOut));
      drop_rows(tape, d_output.rows(rows), rows, pass);
      network.backward(x.rows(rows), tape.network, d_output.rows(rows), nullptr, dx.rows(rows), nullptr,
                       scratch.network, rows);
    });
    pass.exec.parallel_for(ExpertType::weight_parts, [&](Index part) {
      network.backward_weights(part, x, tape.network, d_output, grad.network, scratch.network, {0, x.count});
    });
  }

 private:
  static void drop_rows(const Tape& tape, Out<DOut, T> y, Rows rows, const Pass& pass) {
    if (tape.dropout == 0) return;
    for (Index i = 0; i < rows.count; ++i)
      kernels::drop(y[i], DOut, tape.dropout, tape.noise, pass.number_of(rows.first + i));
  }
};
static_assert(lists_every_field<FeedForward<Expert<2, 3>>>());
static_assert(Layer<FeedForward<Expert<2, 3>>>);

}  // namespace moegpt::inline MOEGPT_BUILD
