#pragma once
// DenseMixture: the mixture of experts of Jacobs, Jordan, Nowlan and Hinton 1991. All experts o_i read x, and
// a gate weighs them by p = softmax(gate(x)). As a layer its output is the mean y = sum_i p_i o_i. Experts
// may be of different types. Losses for a target d, of each token:
//   cooperative     |d - sum_i p_i o_i|^2                        the experts add up to d
//   competitive     sum_i p_i |d - o_i|^2                        each expert alone should be d
//   log_mixture     -log sum_i p_i exp(-|d - o_i|^2 / 2)         likelihood of a mixture of Gaussians
//   classification  -log sum_i p_i softmax(o_i)[label]           of a mixture of class probabilities
#include <moegpt/classical/layer_list.hpp>
#include <moegpt/kernels/softmax.hpp>
#include <moegpt/layers/linear.hpp>

#include <cmath>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class MixtureLoss { cooperative, competitive, log_mixture, classification };

// Gate: a layer from dim_in to one logit for each expert.
template <class Gate, class First, class... Rest>
struct DenseMixture {
  using T = typename First::Scalar;
  using Scalar = T;
  static constexpr int E = 1 + sizeof...(Rest), D = First::dim_in, K = First::dim_out;
  static constexpr int dim_in = D, dim_out = K;
  static_assert(Gate::dim_in == D && Gate::dim_out == E,
                "DenseMixture: the gate must map what experts read to a logit for each of them");
  static_assert(((Rest::dim_in == D && Rest::dim_out == K) && ...),
                "DenseMixture: all experts must have the same dim_in and dim_out");
  using Experts = LayerList<0, First, Rest...>;

  Gate gate;
  Experts experts;

  static constexpr auto fields() {
    return Fields{Field{"gate", &DenseMixture::gate}, Field{"experts", &DenseMixture::experts}};
  }
  struct Tape {
    Tokens<E, T> p;                   // probabilities of the gate
    std::array<Tokens<K, T>, E> out;  // outputs of the experts
    Tokens<K, T> mean;                // y
    typename Gate::Tape gate;
    typename Experts::Tape experts;
    Tokens<E, T> posterior;  // of the last loss: h_i, what the gate should have said
    Tokens<1, T> loss;       // of each token
    void resize(const Pass& pass) {
      resize_all(pass, p, mean, gate, experts, posterior, loss);
      for (auto& o : out) o.resize(pass);
    }
  };
  struct Scratch {
    Tokens<E, T> d_logits;
    Tokens<K, T> d_out;
    typename Gate::Scratch gate;
    typename Experts::Scratch experts;
    void resize(const Pass& pass) { resize_all(pass, d_logits, d_out, gate, experts); }
  };

  // y [tokens, K] is the mean; empty: it is on the tape only.
  void forward(In<D, T> x, Out<K, T> y, Tape& tape, Scratch& scratch, const Pass& pass) const {
    pass.check_fits(x.count, y.empty() ? x.count : y.count);
    resize_all(pass, tape, scratch);
    moegpt::forward(gate, x, tape.p, tape.gate, scratch.gate, pass);
    Experts::visit(
        [&](int i, const auto& expert, auto& expert_tape, auto& expert_scratch) {
          moegpt::forward(expert, x, tape.out[i], expert_tape, expert_scratch, pass);
        },
        experts, tape.experts, scratch.experts);
    for_each_piece(pass.exec, x.count, token_piece, [&](Rows rows) {
      for (Index n = rows.first; n < rows.first + rows.count; ++n) {
        kernels::softmax(tape.p[n], E);
        for (int k = 0; k < K; ++k) {
          T sum = 0;
          for (int i = 0; i < E; ++i) sum += tape.p[n][i] * tape.out[i][n][k];
          tape.mean[n][k] = sum;
        }
        if (!y.empty()) std::copy_n(tape.mean[n], K, y[n]);
      }
    });
  }

  // Of y: do_i = p_i dy,  da = p * (s - <p, s>) with s_i = <dy, o_i>, a the gate's logits.
  void backward(In<D, T> x, const Tape& tape, In<K, T> dy, Out<D, T> dx, DenseMixture& grad, Scratch& scratch,
                const Pass& pass) const {
    scratch.resize(pass);
    const auto d_logits = [&](Index n, T* da) {
      T mean = 0;
      for (int i = 0; i < E; ++i) {
        da[i] = 0;
        for (int k = 0; k < K; ++k) da[i] += dy[n][k] * tape.out[i][n][k];
        mean += tape.p[n][i] * da[i];
      }
      for (int i = 0; i < E; ++i) da[i] = tape.p[n][i] * (da[i] - mean);
    };
    const auto d_out = [&](Index n, int i, T* d) {
      for (int k = 0; k < K; ++k) d[k] = tape.p[n][i] * dy[n][k];
    };
    backward_parts(x, tape, d_logits, d_out, dx, grad, scratch, pass);
  }

  // Mean over tokens of a loss against targets [tokens, K], after forward. std::invalid_argument for
  // MixtureLoss::classification.
  double loss(MixtureLoss rule, In<K, T> target, Tape& tape, const Pass& pass) const {
    check(rule != MixtureLoss::classification,
          "DenseMixture: MixtureLoss::classification takes labels, not targets");
    check(target.count == tape.p.count(), "DenseMixture: ", target.count, " targets for ", tape.p.count(),
          " tokens");
    return mean_loss(tape, pass, [&](Index n, T* h) { return token_loss(rule, target[n], n, tape, h); });
  }
  // Gradient of factor * loss. Overwrites dx, which may be empty.
  void backward_loss(MixtureLoss rule, In<D, T> x, In<K, T> target, const Tape& tape, Out<D, T> dx,
                     DenseMixture& grad, Scratch& scratch, const Pass& pass, double factor = 1) const {
    scratch.resize(pass);
    const T c = scale(factor, x.count);
    const auto d_logits = [&](Index n, T* da) {
      const T *p = tape.p[n], *h = tape.posterior[n], *d = target[n];
      if (rule == MixtureLoss::log_mixture) {
        for (int i = 0; i < E; ++i) da[i] = c * (p[i] - h[i]);
        return;
      }
      T mean = 0;
      for (int i = 0; i < E; ++i) {
        da[i] = 0;
        for (int k = 0; k < K; ++k) {
          const T error = d[k] - (rule == MixtureLoss::cooperative ? tape.mean[n][k] : tape.out[i][n][k]);
          da[i] += rule == MixtureLoss::cooperative ? -2 * error * tape.out[i][n][k] : error * error;
        }
        mean += p[i] * da[i];
      }
      for (int i = 0; i < E; ++i) da[i] = c * p[i] * (da[i] - mean);
    };
    const auto d_out = [&](Index n, int i, T* to) {
      const T weight = rule == MixtureLoss::log_mixture ? tape.posterior[n][i] : 2 * tape.p[n][i];
      for (int k = 0; k < K; ++k) {
        const T output = rule == MixtureLoss::cooperative ? tape.mean[n][k] : tape.out[i][n][k];
        to[k] = -c * weight * (target[n][k] - output);
      }
    };
    backward_parts(x, tape, d_logits, d_out, dx, grad, scratch, pass);
  }

  // The same with labels [tokens] in 0 .. K - 1.
  double classification_loss(const int* labels, Tape& tape, const Pass& pass) const {
    for (Index n = 0; n < tape.p.count(); ++n)
      check(labels[n] >= 0 && labels[n] < K, "DenseMixture: label ", n, " is ", labels[n], ", expected 0 .. ",
            K - 1);
    return mean_loss(tape, pass, [&](Index n, T* h) {
      for (int i = 0; i < E; ++i) {
        T q[K];
        std::copy_n(tape.out[i][n], K, q);
        h[i] = std::log(tape.p[n][i]) + tape.out[i][n][labels[n]] - kernels::softmax(q, K);
      }
      return -kernels::softmax(h, E);
    });
  }
  void backward_classification(In<D, T> x, const int* labels, const Tape& tape, Out<D, T> dx,
                               DenseMixture& grad, Scratch& scratch, const Pass& pass,
                               double factor = 1) const {
    scratch.resize(pass);
    const T c = scale(factor, x.count);
    const auto d_logits = [&](Index n, T* da) {
      for (int i = 0; i < E; ++i) da[i] = c * (tape.p[n][i] - tape.posterior[n][i]);
    };
    const auto d_out = [&](Index n, int i, T* to) {
      std::copy_n(tape.out[i][n], K, to);
      kernels::softmax(to, K);
      to[labels[n]] -= 1;
      for (int k = 0; k < K; ++k) to[k] *= c * tape.posterior[n][i];
    };
    backward_parts(x, tape, d_logits, d_out, dx, grad, scratch, pass);
  }

  // The selector: the expert of a token with the highest probability, or for u in [0, 1) one drawn by them.
  static int most_probable(const Tape& tape, Index token) {
    const T* p = tape.p[token];
    return static_cast<int>(std::max_element(p, p + E) - p);
  }
  static int drawn(const Tape& tape, Index token, double u) {
    const T* p = tape.p[token];
    int i = 0;
    for (double sum = static_cast<double>(p[0]); i + 1 < E && u >= sum; sum += static_cast<double>(p[i])) ++i;
    return i;
  }

 private:
  static T scale(double factor, Index tokens) { return static_cast<T>(factor / static_cast<double>(tokens)); }
  // Loss of token n; h: its posteriors, of the other losses the probabilities.
  static T token_loss(MixtureLoss rule, const T* d, Index n, const Tape& tape, T* h) {
    const T* p = tape.p[n];
    T sum = 0;
    for (int i = 0; i < E; ++i) {
      T squares = 0;
      for (int k = 0; k < K; ++k) {
        const T error = d[k] - (rule == MixtureLoss::cooperative ? tape.mean[n][k] : tape.out[i][n][k]);
        squares += error * error;
      }
      h[i] = rule == MixtureLoss::log_mixture ? std::log(p[i]) - squares / 2 : p[i];
      sum += p[i] * squares;
    }
    return rule == MixtureLoss::log_mixture ? -kernels::softmax(h, E) : sum;
  }
  template <class F>
  double mean_loss(Tape& tape, const Pass& pass, F&& loss_of) const {
    for_each_piece(pass.exec, tape.p.count(), token_piece, [&](Rows rows) {
      for (Index n = rows.first; n < rows.first + rows.count; ++n)
        *tape.loss[n] = loss_of(n, tape.posterior[n]);
    });
    double total = 0;
    for (Index n = 0; n < tape.p.count(); ++n) total += static_cast<double>(*tape.loss[n]);
    return total / static_cast<double>(tape.p.count());
  }
  // Backward of gate and experts: d_logits(n, da [E]) and d_out(n, i, do [K]) write the gradients of a token.
  template <class DLogits, class DOut>
  void backward_parts(In<D, T> x, const Tape& tape, const DLogits& d_logits, const DOut& d_out, Out<D, T> dx,
                      DenseMixture& grad, Scratch& s, const Pass& pass) const {
    const auto for_each_token = [&](auto&& f) {
      for_each_piece(pass.exec, x.count, token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n) f(n);
      });
    };
    for_each_token([&](Index n) { d_logits(n, s.d_logits[n]); });
    moegpt::backward(gate, x, tape.gate, s.d_logits, dx, grad.gate, s.gate, pass);
    Experts::visit(
        [&](int i, const auto& expert, const auto& expert_tape, auto& expert_grad, auto& expert_scratch) {
          for_each_token([&](Index n) { d_out(n, i, s.d_out[n]); });
          moegpt::backward(expert, x, expert_tape, s.d_out, Sum(dx), expert_grad, expert_scratch, pass);
        },
        experts, tape.experts, grad.experts, s.experts);
  }
};
static_assert(lists_every_field<DenseMixture<Linear<2, 2>, Linear<2, 3>, Linear<2, 3>>>());
static_assert(Layer<DenseMixture<Linear<2, 2>, Linear<2, 3>, Linear<2, 3>>>);

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
