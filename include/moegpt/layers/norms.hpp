#pragma once
// LayerNorm and RMSNorm over the features of each token.
#include <moegpt/kernels/norms.hpp>
#include <moegpt/layers/layer.hpp>

namespace moegpt::inline MOEGPT_BUILD {

template <int D, class T = float>
struct LayerNorm {
  using Scalar = T;
  static constexpr int dim_in = D, dim_out = D;

  Weight<T, D> weight;   // gamma
  Weight<T, D> bias;     // beta

  static constexpr auto fields() {
    return std::tuple{Field{"weight", &LayerNorm::weight}, Field{"bias", &LayerNorm::bias}};
  }
  struct Tape {
    Tokens<1, T> mean, rstd;
    void resize(const Pass& pass) {
      mean.resize(pass.tokens());
      rstd.resize(pass.tokens());
    }
  };
  using Scratch = Nothing;

  void forward(In<D, T> x, Out<D, T> y, Tape& tape, const Pass& pass) const {
    tape.resize(pass);
    for_each_piece(pass.exec, x.count, token_piece, [&](Rows rows) {
      for (Index n = rows.first; n < rows.first + rows.count; ++n)
        kernels::layer_norm<T>(x[n], weight.data(), bias.data(), y[n], *tape.mean[n], *tape.rstd[n], D,
                               T(pass.options.norm_epsilon));
    });
  }

  void backward(In<D, T> x, const Tape& tape, In<D, T> dy, Out<D, T> dx, LayerNorm& grad, const Pass& pass) const {
    if (!dx.empty())
      for_each_piece(pass.exec, x.count, token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n)
          kernels::layer_norm_backward<T>(x[n], weight.data(), *tape.mean[n], *tape.rstd[n], dy[n], dx[n], D);
      });
    // dgamma = sum_n dy_n xhat_n,  dbeta = sum_n dy_n; a piece owns a range of features
    for_each_piece(pass.exec, D, 32, [&](Rows features) {
      const Index end = features.first + features.count;
      for (Index n = 0; n < x.count; ++n) {
        const T m = *tape.mean[n], r = *tape.rstd[n];
        if (!grad.weight.empty())
          for (Index i = features.first; i < end; ++i) grad.weight[i] += dy[n][i] * ((x[n][i] - m) * r);
        if (!grad.bias.empty())
          for (Index i = features.first; i < end; ++i) grad.bias[i] += dy[n][i];
      }
    });
  }
};
static_assert(lists_every_field<LayerNorm<2>>());
static_assert(Layer<LayerNorm<2>>);

template <int D, class T = float>
struct RMSNorm {
  using Scalar = T;
  static constexpr int dim_in = D, dim_out = D;

  Weight<T, D> weight;   // gamma

  static constexpr auto fields() { return std::tuple{Field{"weight", &RMSNorm::weight}}; }
  struct Tape {
    Tokens<1, T> rstd;
    void resize(const Pass& pass) { rstd.resize(pass.tokens()); }
  };
  using Scratch = Nothing;

  void forward(In<D, T> x, Out<D, T> y, Tape& tape, const Pass& pass) const {
    tape.resize(pass);
    for_each_piece(pass.exec, x.count, token_piece, [&](Rows rows) {
      for (Index n = rows.first; n < rows.first + rows.count; ++n)
        kernels::rms_norm<T>(x[n], weight.data(), y[n], *tape.rstd[n], D, T(pass.options.norm_epsilon));
    });
  }

  void backward(In<D, T> x, const Tape& tape, In<D, T> dy, Out<D, T> dx, RMSNorm& grad, const Pass& pass) const {
    if (!dx.empty())
      for_each_piece(pass.exec, x.count, token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n)
          kernels::rms_norm_backward<T>(x[n], weight.data(), *tape.rstd[n], dy[n], dx[n], D);
      });
    if (grad.weight.empty()) return;
    // dgamma = sum_n dy_n xhat_n; a piece owns a range of features
    for_each_piece(pass.exec, D, 32, [&](Rows features) {
      for (Index n = 0; n < x.count; ++n) {
        const T r = *tape.rstd[n];
        for (Index i = features.first; i < features.first + features.count; ++i)
          grad.weight[i] += dy[n][i] * (x[n][i] * r);
      }
    });
  }
};
static_assert(lists_every_field<RMSNorm<2>>());
static_assert(Layer<RMSNorm<2>>);

}  // namespace moegpt::inline MOEGPT_BUILD
