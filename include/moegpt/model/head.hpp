#pragma once
// LM head: logits z = s (W x + b), x [D], z [V], s = ModelOptions::logit_scale, and their cross-entropy. If
// tied, W is the token embedding's weight, and there is no adapter: merged, it would change the embedding.
// The logits are saved on the tape. Backward computes the gradient of u = z / s for a block of the vocabulary
// at a time, so no second buffer of the logits' size is needed. With soft targets the loss has a second part
// (model/distillation.hpp).
#include <moegpt/kernels/cross_entropy.hpp>
#include <moegpt/kernels/elementwise.hpp>
#include <moegpt/kernels/gemm.hpp>
#include <moegpt/layers/adapted_linear.hpp>
#include <moegpt/model/distillation.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <int D, int V, class N = float, bool Tied = false, bool HasBias = false, int Rank = 0>
struct Head {
  using T = ScalarOf<N>;
  using Scalar = T;
  using Table = Weight<StorageOf<N>, V, D>;
  static constexpr int R = Tied ? 0 : Rank;
  using AdapterType = Adapter<D, V, R, T>;

  [[no_unique_address]] Weight<StorageOf<N>, Tied ? 0 : V, D> weight;
  [[no_unique_address]] Weight<T, HasBias ? V : 0> bias;
  [[no_unique_address]] AdapterType adapter;

  static constexpr auto fields() {
    return Fields{Field{"weight", &Head::weight}, Field{"bias", &Head::bias, Start::bias(D)},
                  Field{"adapter", &Head::adapter}};
  }
  struct Tape {
    Tokens<V, T> logits;
    Tokens<1, T> loss;                            // cross-entropy of each token, in nats
    Tokens<1, T> lse;                             // log-sum-exp of its logits
    Buffer<int> targets;                          // [tokens] of the last loss; below 0: ignored; padding: -1
    Index counted = 0;                            // number of targets that are not ignored
    SoftTargets<V, T> soft{};                     // of the last loss; without logits: none
    Buffer<kernels::Divergence<T>> divergence{};  // [tokens] of soft targets
    double mean_divergence = 0;                   // over the targets that are not ignored
    [[no_unique_address]] typename AdapterType::Tape adapter;
    void resize(const Pass& pass) {
      resize_all(pass, logits, loss, lse, adapter);
      targets.resize(pass.tokens());
      divergence.resize(pass.tokens());
    }
  };
  static constexpr Pieces blocks{V, 512};  // of the vocabulary; does not affect results
  struct Scratch {
    Buffer<T> d_logits;  // [tokens, block]
    [[no_unique_address]] typename AdapterType::Scratch adapter;
    void resize(const Pass& pass) {
      d_logits.resize(pass.tokens() * blocks[0].count);
      adapter.resize(pass);
    }
  };

  // Writes tape.logits, which has x.count tokens.
  void forward(In<D, T> x, const Table& embedding, Tape& tape, const Pass& pass) const {
    kernels::affine<T, StorageOf<N>>(pass.exec, x, table(embedding), bias.data(), tape.logits);
    if constexpr (R > 0) adapter.add(x, Sum(tape.logits), tape.adapter, pass);
    const double factor = pass.options.logit_scale;
    if (factor != 1) kernels::scale<T>(pass.exec, static_cast<T>(factor), tape.logits, tape.logits);
  }

  // Mean cross-entropy in nats over targets >= 0 of tokens that are not padding; 0 if there are none.
  // targets: [tokens]. With soft targets, stores the mean divergence from them on the tape.
  // std::invalid_argument for a target >= V and for invalid soft targets.
  double loss(In<D, T> x, const Table& embedding, const int* targets, Tape& tape, const Pass& pass,
              const SoftTargets<V, T>& soft = {}) const {
    pass.check_fits(x.count, x.count);
    for (Index n = 0; n < x.count; ++n)
      check(targets[n] < V, "Head: target ", n, " is ", targets[n], ", expected less than ", V);
    tape.resize(pass);
    check_soft_targets(soft, x.count, tape.logits[0]);
    forward(x, embedding, tape, pass);
    for (Index n = 0; n < x.count; ++n) tape.targets[n] = pass.is_padding(n) ? -1 : targets[n];
    kernels::cross_entropies<T>(pass.exec, tape.logits.view(), tape.targets.data(), tape.loss[0],
                                tape.lse[0]);
    double total = 0;
    tape.counted = 0;
    for (Index n = 0; n < x.count; ++n)
      if (tape.targets[n] >= 0) {
        total += static_cast<double>(*tape.loss[n]);
        ++tape.counted;
      }
    measure_divergence(soft, tape, pass);
    return tape.counted > 0 ? total / static_cast<double>(tape.counted) : 0;
  }

  // Gradient of factor * loss:
  // du = factor s (softmax(z) - onehot) / counted,  z = s u,  dx = W^T du,  dW += du x^T,  db += du
  // With soft targets, of factor ((1 - a) loss + a T^2 mean divergence):
  // du = factor s ((1 - a) (softmax(z) - onehot) + a T (q - p)) / counted
  void backward(In<D, T> x, const Table& embedding, const Tape& tape, Out<D, T> dx, Head& grad,
                Table& d_embedding, Scratch& scratch, const Pass& pass, double factor = 1) const {
    check_trains<N>();
    scratch.resize(pass);
    const SoftTargets<V, T>& soft = tape.soft;
    const auto per_target = [&](double part) {
      return tape.counted > 0 ? static_cast<T>(pass.options.logit_scale * part) / static_cast<T>(tape.counted)
                              : T(0);
    };
    const T scale = per_target(factor * soft.hard_weight());
    const MatrixView<const T> w = table(embedding);
    const MatrixView<T> dw = Tied ? MatrixView<T>(d_embedding) : MatrixView<T>(grad.weight);
    for (Index b = 0; b < blocks.size(); ++b) {
      const Rows block = blocks[b];
      const MatrixView<T> du{scratch.d_logits.data(), x.count, block.count, block.count};
      kernels::cross_entropies_backward<T>(pass.exec, tape.logits.view(), tape.targets.data(), tape.lse[0],
                                           scale, block.first, du);
      if (!soft.logits.empty())
        kernels::divergences_backward<T>(pass.exec, tape.logits.view(), soft.logits, tape.targets.data(),
                                         static_cast<T>(soft.options.temperature), tape.divergence.data(),
                                         per_target(factor * soft.soft_weight() / soft.options.temperature),
                                         block.first, du);
      kernels::affine_backward<T>(pass.exec, du, w.rows_at(block), dx, b > 0);
      kernels::affine_backward_weights<T>(pass.exec, x, du, dw.empty() ? dw : dw.rows_at(block),
                                          grad.bias.empty() ? nullptr : grad.bias.data() + block.first);
      if constexpr (R > 0)
        adapter.backward_outputs(block, du, b > 0, tape.adapter, grad.adapter, scratch.adapter, pass);
    }
    if constexpr (R > 0) adapter.backward_inputs(x, Sum(dx), grad.adapter, scratch.adapter, pass);
  }

 private:
  static void measure_divergence(const SoftTargets<V, T>& soft, Tape& tape, const Pass& pass) {
    tape.soft = soft;
    tape.mean_divergence = 0;
    if (soft.logits.empty()) return;
    kernels::divergences<T>(pass.exec, tape.logits.view(), soft.logits, tape.targets.data(),
                            static_cast<T>(soft.options.temperature), tape.divergence.data());
    double total = 0;
    for (const auto& token : tape.divergence) total += static_cast<double>(token.value);
    if (tape.counted > 0) tape.mean_divergence = total / static_cast<double>(tape.counted);
  }
  StoredView<StorageOf<N>> table(const Table& embedding) const {
    if constexpr (Tied)
      return embedding;
    else
      return weight;
  }
};
static_assert(lists_every_field<Head<2, 3>>());

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
