#pragma once
// Norm and limit of projected queries or keys, before they are rotated:
//   y = clip(gamma x / rms(x)),  clip(z) = min(max(z, -c), c),  c = ModelOptions::qkv_clip (0: no limit)
// The norm keeps attention scores from growing (Henry et al. 2020, Dehghani et al. 2023).
#include <moegpt/kernels/elementwise.hpp>
#include <moegpt/kernels/norms.hpp>
#include <moegpt/layers/layer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class QueryKeyNorm {
  none,
  head,  // over each head of d features, with the same gamma [d] (Qwen3)
  full,  // over all W features (OLMoE)
};

// W: features of all heads, each of d. dx may be dy.
template <QueryKeyNorm Kind, int W, int d, class T = float>
struct HeadNorm {
  using Scalar = T;
  static constexpr int dim_in = W, dim_out = W;
  static constexpr bool norms = Kind != QueryKeyNorm::none;
  static constexpr int width = Kind == QueryKeyNorm::head ? d : W;

  [[no_unique_address]] Weight<T, norms ? width : 0> weight;  // gamma

  static constexpr auto fields() { return Fields{Field{"weight", &HeadNorm::weight, Start::one}}; }
  struct Tape {
    Buffer<T> rstd;  // [tokens W / width] 1 / sqrt(mean of x^2 + norm_epsilon)
    void resize(const Pass& pass) { rstd.resize(norms ? pass.tokens() * (W / width) : 0); }
  };
  struct Scratch {
    Tokens<W, T> d_clipped;
    Buffer<T> rstd;
    void resize(const Pass& pass) {
      d_clipped.resize(is_identity(pass) ? 0 : pass.tokens());
      rstd.resize(norms ? pass.tokens() * (W / width) : 0);
    }
  };

  // Whether y = x.
  static bool is_identity(const Pass& pass) { return !norms && pass.options.qkv_clip == 0; }

  void forward(In<W, T> x, Out<W, T> y, Tape& tape, Scratch&, const Pass& pass) const {
    pass.check_fits(x.count, y.count);
    tape.resize(pass);
    normalise(x, y, tape.rstd, pass);
    if (pass.options.qkv_clip > 0) kernels::clip<T>(pass.exec, T(pass.options.qkv_clip), y);
  }
  void backward(In<W, T> x, const Tape& tape, In<W, T> dy, Out<W, T> dx, HeadNorm& grad, Scratch& scratch,
                const Pass& pass) const {
    scratch.resize(pass);
    In<W, T> d_norm = dy;
    if (pass.options.qkv_clip > 0) {
      normalise(x, scratch.d_clipped, scratch.rstd, pass);
      kernels::clip_backward<T>(pass.exec, T(pass.options.qkv_clip), scratch.d_clipped, dy,
                                scratch.d_clipped);
      d_norm = scratch.d_clipped;
    } else if (dx.data == dy.data) {
      std::memcpy(scratch.d_clipped[0], dy.data, bytes_of<T>(dy.count * W));
      d_norm = scratch.d_clipped;
    }
    if constexpr (norms)
      kernels::rms_norms_backward<T>(pass.exec, of_norm(x), weight.data(), tape.rstd.data(), of_norm(d_norm),
                                     of_norm(dx), grad.weight.data());
    else if (!dx.empty())
      std::memcpy(dx.data, d_norm.data, bytes_of<T>(d_norm.count * W));
  }

 private:
  template <class U>
  static MatrixView<U> of_norm(TokensView<W, U> x) {
    return {x.data, x.count * (W / width), width, width};
  }
  void normalise(In<W, T> x, Out<W, T> y, Buffer<T>& rstd, const Pass& pass) const {
    if constexpr (norms)
      kernels::rms_norms<T>(pass.exec, of_norm(x), weight.data(), of_norm(y), rstd.data(),
                            T(pass.options.norm_epsilon));
    else
      std::memcpy(y.data, x.data, bytes_of<T>(x.count * W));
  }
};
static_assert(lists_every_field<HeadNorm<QueryKeyNorm::head, 4, 2>>());
static_assert(Layer<HeadNorm<QueryKeyNorm::full, 4, 2>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
