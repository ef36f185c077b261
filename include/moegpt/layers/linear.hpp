#pragma once
// Linear layer: y = W x + b. noinline limits the code size: there are many callers and shapes.
#include <moegpt/kernels/gemm.hpp>
#include <moegpt/layers/layer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <int DIn, int DOut, class N = float, bool HasBias = true>
struct Linear {
  using T = ScalarOf<N>;
  using Scalar = T;
  static constexpr int dim_in = DIn, dim_out = DOut;

  Weight<StorageOf<N>, DOut, DIn> weight;
  [[no_unique_address]] Weight<T, HasBias ? DOut : 0> bias;

  static constexpr auto fields() {
    return Fields{Field{"weight", &Linear::weight}, Field{"bias", &Linear::bias, Start::bias(DIn)}};
  }
  using Tape = Nothing;
  using Scratch = Nothing;

  [[gnu::noinline]] void forward(In<DIn, T> x, Out<DOut, T> y, const Pass& pass) const {
    check(x.count == y.count, "Linear got ", x.count, " tokens and room for ", y.count, " in y");
    kernels::affine<T, StorageOf<N>>(pass.exec, x, weight, bias.data(), y);
  }

  [[gnu::noinline]] void backward(In<DIn, T> x, In<DOut, T> dy, Out<DIn, T> dx, Linear& grad,
                                  const Pass& pass) const {
    check_trains<N>();
    if (!dx.empty()) kernels::affine_backward<T>(pass.exec, dy, weight, dx, false);  // dx = W^T dy
    backward_weights(x, dy, grad, pass);
  }
  [[gnu::noinline]] void backward(In<DIn, T> x, In<DOut, T> dy, Sum<DIn, T> dx, Linear& grad,
                                  const Pass& pass) const {
    check_trains<N>();
    if (!dx.empty()) kernels::affine_backward<T>(pass.exec, dy, weight, dx.matrix(), true);  // dx += W^T dy
    backward_weights(x, dy, grad, pass);
  }
  // dW += sum_t dy_t x_t^T,  db += sum_t dy_t
  [[gnu::noinline]] void backward_weights(In<DIn, T> x, In<DOut, T> dy, Linear& grad,
                                          const Pass& pass) const {
    check_trains<N>();
    kernels::affine_backward_weights<T>(pass.exec, x, dy, grad.weight, grad.bias.data());
  }

  // The same for part `part` of the rows of dW and db, on one thread. Parts may run in parallel.
  static constexpr Index weight_parts = (DOut + 255) / 256;
  [[gnu::noinline]] void backward_weights(Index part, Gathered<DIn, T> x, In<DOut, T> dy,
                                          Linear& grad) const {
    check_trains<N>();
    const Rows rows = Pieces{DOut, 256}[part];
    const MatrixView<T> dw = grad.weight;
    kernels::affine_backward_weights<T>({}, x, MatrixView<const T>(dy).cols_at(rows.first, rows.count),
                                        dw.empty() ? dw : dw.rows_at(rows),
                                        grad.bias.empty() ? nullptr : grad.bias.data() + rows.first);
  }
};
static_assert(lists_every_field<Linear<2, 3>>());
static_assert(Layer<Linear<2, 3>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
