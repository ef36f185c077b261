#pragma once
// The last layer: logits = W x + b over the vocabulary, and the cross-entropy of what follows. With a tied
// head, W is the token embedding. The one layer whose loss is fused with its forward: logits stay in the tape.
#include <moegpt/kernels/cross_entropy.hpp>
#include <moegpt/kernels/gemm.hpp>
#include <moegpt/layers/layer.hpp>

namespace moegpt::inline MOEGPT_BUILD {

template <int D, int V, class T = float, bool Tied = false, bool HasBias = false>
struct Head {
  using Scalar = T;
  using Table = Weight<T, V, D>;

  Weight<T, Tied ? 0 : V, D> weight;
  Weight<T, HasBias ? V : 0> bias;

  static constexpr auto fields() { return Fields{Field{"weight", &Head::weight}, Field{"bias", &Head::bias}}; }
  struct Tape {
    Tokens<V, T> logits;
    Tokens<1, T> loss;      // of each token, in nats
    Index counted = 0;      // tokens whose target is not ignored
    void resize(const Pass& pass) {
      logits.resize(pass.tokens());
      loss.resize(pass.tokens());
    }
  };
  struct Scratch {
    Tokens<V, T> d_logits;
    Tokens<V, T> row;       // one for each worker
    void resize(const Pass& pass) { d_logits.resize(pass.tokens()); }
  };

  void forward(In<D, T> x, const Table& embedding, Out<V, T> logits, const Pass& pass) const {
    kernels::affine<T>(pass.exec, x, table(embedding), bias.data(), logits);
  }

  // Mean cross-entropy in nats over targets that are not ignored.
  double loss(In<D, T> x, const Table& embedding, const int* targets, Tape& tape, Scratch& scratch,
              const Pass& pass) const {
    tape.resize(pass);
    scratch.row.resize(pass.exec.workers());
    forward(x, embedding, tape.logits, pass);
    pass.exec.parallel_for_worker(x.count, [&](Index n, int worker) {
      *tape.loss[n] = targets[n] < 0 ? T(0) : kernels::cross_entropy<T>(tape.logits[n], V, targets[n], scratch.row[worker]);
    });
    double total = 0;
    tape.counted = 0;
    for (Index n = 0; n < x.count; ++n)
      if (targets[n] >= 0) {
        total += static_cast<double>(*tape.loss[n]);
        ++tape.counted;
      }
    return tape.counted > 0 ? total / static_cast<double>(tape.counted) : 0;
  }

  // dz = (softmax(z) - onehot) / counted,  dx = W^T dz,  dW += dz x^T,  db += dz
  void backward(In<D, T> x, const Table& embedding, const int* targets, const Tape& tape, Out<D, T> dx, Head& grad,
                Table& d_embedding, Scratch& scratch, const Pass& pass) const {
    scratch.resize(pass);
    const T scale = tape.counted > 0 ? T(1) / static_cast<T>(tape.counted) : T(0);
    pass.exec.parallel_for(x.count, [&](Index n) {
      kernels::cross_entropy_backward<T>(tape.logits[n], V, targets[n], scale, scratch.d_logits[n]);
    });
    const In<V, T> dz = scratch.d_logits;
    kernels::affine_backward<T>(pass.exec, dz, table(embedding), dx, false);
    const MatrixView<T> d_table = Tied ? MatrixView<T>(d_embedding) : MatrixView<T>(grad.weight);
    kernels::affine_backward_weights<T>(pass.exec, x, dz, d_table, grad.bias.data());
  }

 private:
  MatrixView<const T> table(const Table& embedding) const {
    if constexpr (Tied)
      return embedding;
    else
      return weight;
  }
};
static_assert(lists_every_field<Head<2, 3>>());

}  // namespace moegpt::inline MOEGPT_BUILD
