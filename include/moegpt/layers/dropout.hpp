#pragma once
// Inverted dropout (Srivastava et al. 2014): y = x m / (1 - p), m = 0 with probability p, else 1. The mask is
// a function of RNG key, global token number and feature, so backward recomputes it. Without a key: y = x.
// y may be x, and dx may be dy.
#include <moegpt/kernels/dropout.hpp>
#include <moegpt/layers/layer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
template <int D, class T = float>
struct Dropout {
  using Scalar = T;
  static constexpr int dim_in = D, dim_out = D;

  static constexpr auto fields() { return Fields<>{}; }
  struct Tape {
    double probability = 0;
    Key key{};
    void resize(const Pass&) {}
  };
  using Scratch = Nothing;

  void forward(In<D, T> x, Out<D, T> y, Tape& tape, const Pass& pass) const {
    pass.check_fits(x.count, y.count);
    tape = {pass.applied_dropout(), pass.key ? pass.key->with(Purpose::residual_dropout) : Key{}};
    if (y.data != x.data) std::memcpy(y.data, x.data, bytes_of<T>(x.count * D));
    apply(tape, y, pass);
  }
  void backward(In<D, T>, const Tape& tape, In<D, T> dy, Out<D, T> dx, Dropout&, const Pass& pass) const {
    if (dx.empty()) return;
    if (dx.data != dy.data) std::memcpy(dx.data, dy.data, bytes_of<T>(dy.count * D));
    apply(tape, dx, pass);
  }

 private:
  [[gnu::noinline]] void apply(const Tape& tape, Out<D, T> y, const Pass& pass) const {
    if (tape.probability == 0) return;
    for_each_piece(pass.exec, y.count, token_piece, [&](Rows rows) {
      for (Index n = rows.first; n < rows.first + rows.count; ++n)
        kernels::drop(y[n], D, tape.probability, tape.key, pass.number_of(n));
    });
  }
};
static_assert(Layer<Dropout<2>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
