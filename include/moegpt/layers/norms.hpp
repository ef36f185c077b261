#pragma once
// LayerNorm (Ba et al. 2016) and RMSNorm (Zhang, Sennrich 2019) over the features of each token, and NoNorm.
#include <moegpt/kernels/norms.hpp>
#include <moegpt/layers/layer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <int D, class T = float>
struct LayerNorm {
  using Scalar = T;
  static constexpr int dim_in = D, dim_out = D;

  Weight<T, D> weight;  // gamma
  Weight<T, D> bias;    // beta

  static constexpr auto fields() {
    return Fields{Field{"weight", &LayerNorm::weight, Start::one}, Field{"bias", &LayerNorm::bias}};
  }
  struct Tape {
    Tokens<1, T> mean, rstd;  // of each token; rstd = 1 / sqrt(variance + norm_epsilon)
    void resize(const Pass& pass) { resize_all(pass, mean, rstd); }
  };
  using Scratch = Nothing;

  [[gnu::noinline]] void forward(In<D, T> x, Out<D, T> y, Tape& tape, const Pass& pass) const {
    pass.check_fits(x.count, y.count);
    tape.resize(pass);
    kernels::layer_norms<T>(pass.exec, x, weight.data(), bias.data(), y, tape.mean[0], tape.rstd[0],
                            T(pass.options.norm_epsilon));
  }
  [[gnu::noinline]] void backward(In<D, T> x, const Tape& tape, In<D, T> dy, Out<D, T> dx, LayerNorm& grad,
                                  const Pass& pass) const {
    kernels::layer_norms_backward<T>(pass.exec, x, weight.data(), tape.mean[0], tape.rstd[0], dy, dx,
                                     grad.weight.data(), grad.bias.data());
  }
};
static_assert(lists_every_field<LayerNorm<2>>());
static_assert(Layer<LayerNorm<2>>);

template <int D, class T = float>
struct RMSNorm {
  using Scalar = T;
  static constexpr int dim_in = D, dim_out = D;

  Weight<T, D> weight;  // gamma

  static constexpr auto fields() { return Fields{Field{"weight", &RMSNorm::weight, Start::one}}; }
  struct Tape {
    Tokens<1, T> rstd;  // 1 / sqrt(mean of x^2 + norm_epsilon), of each token
    void resize(const Pass& pass) { rstd.resize(pass); }
  };
  using Scratch = Nothing;

  [[gnu::noinline]] void forward(In<D, T> x, Out<D, T> y, Tape& tape, const Pass& pass) const {
    pass.check_fits(x.count, y.count);
    tape.resize(pass);
    kernels::rms_norms<T>(pass.exec, x, weight.data(), y, tape.rstd[0], T(pass.options.norm_epsilon));
  }
  [[gnu::noinline]] void backward(In<D, T> x, const Tape& tape, In<D, T> dy, Out<D, T> dx, RMSNorm& grad,
                                  const Pass& pass) const {
    kernels::rms_norms_backward<T>(pass.exec, x, weight.data(), tape.rstd[0], dy, dx, grad.weight.data());
  }
};
static_assert(lists_every_field<RMSNorm<2>>());
static_assert(Layer<RMSNorm<2>>);

// y = x
template <int D, class T = float>
struct NoNorm {
  using Scalar = T;
  static constexpr int dim_in = D, dim_out = D;

  static constexpr auto fields() { return Fields<>{}; }
  using Tape = Nothing;
  using Scratch = Nothing;

  void forward(In<D, T> x, Out<D, T> y, Tape&, const Pass& pass) const {
    pass.check_fits(x.count, y.count);
    std::memcpy(y.data, x.data, bytes_of<T>(x.count * D));
  }
  void backward(In<D, T>, const Tape&, In<D, T> dy, Out<D, T> dx, NoNorm&, const Pass&) const {
    if (!dx.empty()) std::memcpy(dx.data, dy.data, bytes_of<T>(dy.count * D));
  }
};
static_assert(lists_every_field<NoNorm<2>>());
static_assert(Layer<NoNorm<2>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
