#pragma once
// Cosine routing (Chi et al. 2022; Tutel's cosine_top): logits are scaled cosines of the token, projected to
// `Width`, and a vector per expert. They lie in [-c, c], whatever the norms:
//   p = W x + b,  u = p / |p|,  w_e = v_e / |v_e|,  z_e = c <u, w_e>,  c = exp(min(theta, log 100))
// A zero vector has cosines 0 and no gradient.
#include <moegpt/routing/token_choice.hpp>

#include <numbers>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <int Width>
struct CosineLogits {
  static_assert(Width >= 1, "CosineLogits: the width that tokens are projected to must be at least 1");
  template <int D, int E, class T>
  struct For {
    using Scalar = T;
    static constexpr int dim_in = D, dim_out = E;

    Linear<D, Width, T> projection;
    Weight<T, E, Width> experts;  // v
    Weight<T, 1> log_scale;       // theta

    static constexpr auto fields() {
      return Fields{Field{"projection", &For::projection}, Field{"experts", &For::experts},
                    Field{"log_scale", &For::log_scale, Start::at(std::numbers::ln2)}};
    }
    struct Tape {
      Tokens<Width, T> u;      // [tokens]
      Tokens<1, T> inverse;    // [tokens] 1 / |p|
      Tokens<Width, T> w;      // [E]
      Tokens<1, T> w_inverse;  // [E] 1 / |v|
      [[gnu::noinline]] void resize(const Pass& pass) {
        resize_all(pass, u, inverse);
        w.resize(E);
        w_inverse.resize(E);
      }
    };
    struct Scratch {
      Tokens<E, T> dz;      // c dz
      Tokens<Width, T> du;  // [tokens] du, then dp
      Tokens<1, T> along;   // [tokens] <u, du>
      Tokens<Width, T> dw;  // [E]
      [[gnu::noinline]] void resize(const Pass& pass) {
        resize_all(pass, dz, du, along);
        dw.resize(E);
      }
    };

    void forward(In<D, T> x, Out<E, T> z, Tape& tape, const Pass& pass) const {
      tape.resize(pass);
      projection.forward(x, tape.u, pass);
      for (int e = 0; e < E; ++e) {
        std::copy_n(experts.data() + e * Width, Width, tape.w[e]);
        *tape.w_inverse[e] = normalise(tape.w[e]);
      }
      for_each_piece(pass.exec, x.count, token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n) *tape.inverse[n] = normalise(tape.u[n]);
      });
      kernels::affine<T>(pass.exec, In<Width, T>(tape.u), MatrixView<const T>(tape.w), nullptr, z);
      const T c = scale();
      for_each_piece(pass.exec, x.count, token_piece,
                     [&](Rows rows) { kernels::scale(rows.count * E, c, z[rows.first], z[rows.first]); });
    }

    void backward(In<D, T> x, const Tape& tape, In<E, T> dz, Out<D, T> dx, For& grad, Scratch& scratch,
                  const Pass& pass) const {
      backward_cosines(tape, dz, grad, scratch, pass);
      projection.backward(x, scratch.du, dx, grad.projection, pass);
    }
    void backward(In<D, T> x, const Tape& tape, In<E, T> dz, Sum<D, T> dx, For& grad, Scratch& scratch,
                  const Pass& pass) const {
      backward_cosines(tape, dz, grad, scratch, pass);
      projection.backward(x, scratch.du, dx, grad.projection, pass);
    }

   private:
    T scale() const { return std::exp(std::min(log_scale[0], std::log(T(100)))); }

    // x := x / |x|; returns 1 / |x|, or 0.
    static T normalise(T* x) {
      const T square = kernels::dot(x, x, Width), inverse = square > 0 ? 1 / std::sqrt(square) : T(0);
      kernels::scale(Width, inverse, x, x);
      return inverse;
    }
    // d := (d - u <u, d>) / |x|, for u = x / |x|; returns <u, d>.
    static T normalise_backward(const T* u, T inverse, T* d) {
      const T along = kernels::dot(u, d, Width);
      for (int i = 0; i < Width; ++i) d[i] = (d[i] - u[i] * along) * inverse;
      return along;
    }
    //   du = c W^T dz,  dw = c dz^T u,  dp and dv from them;   dtheta = sum_n <dz_n, z_n> = sum_n <du_n, u_n>
    void backward_cosines(const Tape& tape, In<E, T> dz, For& grad, Scratch& scratch,
                          const Pass& pass) const {
      scratch.resize(pass);
      const T c = scale();
      for_each_piece(pass.exec, dz.count, token_piece, [&](Rows rows) {
        kernels::scale(rows.count * E, c, dz[rows.first], scratch.dz[rows.first]);
      });
      kernels::affine_backward<T>(pass.exec, scratch.dz, MatrixView<const T>(tape.w), scratch.du, false);
      for_each_piece(pass.exec, dz.count, token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n)
          *scratch.along[n] = normalise_backward(tape.u[n], *tape.inverse[n], scratch.du[n]);
      });
      if (!grad.experts.empty()) {
        scratch.dw.memory().fill(0);
        kernels::affine_backward_weights<T>(pass.exec, In<Width, T>(tape.u), scratch.dz, scratch.dw, nullptr);
        for (int e = 0; e < E; ++e) {
          normalise_backward(tape.w[e], *tape.w_inverse[e], scratch.dw[e]);
          kernels::axpy(Width, T(1), scratch.dw[e], grad.experts.data() + e * Width);
        }
      }
      if (!grad.log_scale.empty() && log_scale[0] < std::log(T(100)))
        for (Index n = 0; n < dz.count; ++n) grad.log_scale[0] += *scratch.along[n];
    }
  };
};
static_assert(lists_every_field<CosineLogits<3>::For<4, 2, float>>());
static_assert(AddsToDx<CosineLogits<3>::For<4, 2, float>>);

template <int E, int K, int Width = 256, Gates GatesRule = K == 1 ? Gates::probability : Gates::renormalised>
struct CosineRouter : TokenChoiceRouter<E, K, Decisions<SoftmaxScores, LargestLogits, GateRule<GatesRule>>,
                                        CosineLogits<Width>> {
  static std::string text() {
    return "CosineRouter<" + std::to_string(E) + ", " + std::to_string(K) + ", " + std::to_string(Width) +
           ", " + text_of(GatesRule) + ">";
  }
};
static_assert(Router<CosineRouter<4, 2>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
