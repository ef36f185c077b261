#pragma once
// Hierarchical mixture of experts (Jordan and Jacobs 1994): a tree whose inner nodes are gates and whose
// leaves are linear models. The likelihood of a target d is, from the leaves up,
//   P(d | x) = sum_c g_c(x) P_c(d | x),   g = softmax(gate(x))
// Leaves are Gaussian, P = N(d; W x + b, variance I), or logistic, P = softmax(W x + b)[label]. A tree is
// trained by its gradient, or by expectation maximisation (em_pass).
//   HierarchicalMixture<2, 1, Leaf::gaussian, double, 2, 3>   two subtrees with three leaves each
#include <moegpt/classical/weighted_fits.hpp>
#include <moegpt/core/heap_array.hpp>
#include <moegpt/kernels/softmax.hpp>
#include <moegpt/layers/linear.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Leaf {
  gaussian,  // targets [tokens, K]
  logistic,  // a target is the indicator of a label: 1 for it, 0 for the K - 1 others
};

struct EMOptions {
  double ridge = 1e-3;           // ridge / 2 |W|^2 is subtracted from the log-likelihood, biases excepted
  double least_variance = 1e-4;  // of Gaussian leaves
  int gate_steps = 1;            // Newton steps of a gate, and of a logistic leaf, in a pass
};

namespace detail {

// Weights and, in the last column, biases of a linear layer.
template <int D, int K, class T>
RowMatrix matrix_of(const Linear<D, K, T>& layer) {
  RowMatrix W(K, D + 1);
  for (int k = 0; k < K; ++k) {
    for (int i = 0; i < D; ++i) W(k, i) = static_cast<double>(layer.weight[Index{k} * D + i]);
    W(k, D) = static_cast<double>(layer.bias[k]);
  }
  return W;
}
template <int D, int K, class T>
void assign(Linear<D, K, T>& layer, const RowMatrix& W) {
  for (int k = 0; k < K; ++k) {
    for (int i = 0; i < D; ++i) layer.weight[Index{k} * D + i] = static_cast<T>(W(k, i));
    layer.bias[k] = static_cast<T>(W(k, D));
  }
}

}  // namespace detail

// A leaf.
template <int D, int K, Leaf Kind, class T, int... Branches>
struct HierarchicalMixture {
  using Scalar = T;
  static constexpr int leaves = 1;

  Linear<D, K, T> output;
  Weight<T, 1> variance;  // of a Gaussian leaf; set by EM, constant for the gradient

  static constexpr auto fields() {
    return Fields{Field{"output", &HierarchicalMixture::output},
                  Field{"variance", &HierarchicalMixture::variance, moegpt::Kind::buffer, Start::one}};
  }
  struct Tape {
    Tokens<K, T> out;  // means, or probabilities
    Tokens<1, T> log_likelihood;
    void resize(const Pass& pass) { resize_all(pass, out, log_likelihood); }
  };
  struct Scratch {
    Tokens<K, T> d_out;
    void resize(const Pass& pass) { d_out.resize(pass); }
  };

  // Also the log-likelihood of each token, if there are targets.
  void forward(In<D, T> x, In<K, T> target, Tape& tape, const Pass& pass) const {
    tape.resize(pass);
    output.forward(x, tape.out, pass);
    const T v = variance[0];
    for (Index n = 0; n < x.count; ++n) {
      T sum = 0;
      T* const out = tape.out[n];
      if (Kind == Leaf::logistic) {
        T z[K];
        std::copy_n(out, K, z);
        const T lse = kernels::softmax(out, K);
        for (int k = 0; k < K && !target.empty(); ++k) sum += target[n][k] * (z[k] - lse);
      } else if (!target.empty()) {
        for (int k = 0; k < K; ++k) sum += (target[n][k] - out[k]) * (target[n][k] - out[k]);
        sum = -(sum / v + K * std::log(v * T(6.283185307179586))) / 2;
      }
      *tape.log_likelihood[n] = sum;
    }
  }
  // Mean of the targets: adds weight * out. weights [tokens]
  void add_mean(const Tape& tape, const T* weights, Out<K, T> y) const {
    for (Index n = 0; n < y.count; ++n)
      for (int k = 0; k < K; ++k) y[n][k] += weights[n] * tape.out[n][k];
  }
  // Gradient of sum_n weights_n log P(d_n | x_n), added to dx.
  void backward(In<D, T> x, In<K, T> target, const Tape& tape, const T* weights, Sum<D, T> dx,
                HierarchicalMixture& grad, Scratch& s, const Pass& pass) const {
    s.resize(pass);
    for (Index n = 0; n < x.count; ++n)
      for (int k = 0; k < K; ++k)
        s.d_out[n][k] =
            weights[n] * (target[n][k] - tape.out[n][k]) / (Kind == Leaf::gaussian ? variance[0] : T(1));
    output.backward(x, s.d_out, dx, grad.output, pass);
  }
  // The M-step with posteriors h [N].
  void maximise(const RowMatrix& X, const RowMatrix& targets, const Tape&, const Eigen::VectorXd& h,
                const EMOptions& how) {
    RowMatrix W = detail::matrix_of(output);
    if (Kind == Leaf::logistic) {
      improve_logistic(X, h.asDiagonal() * targets, W, how.ridge, how.gate_steps);
    } else {
      W = weighted_least_squares(X, h, targets, how.ridge * static_cast<double>(variance[0]));
      const double squares = h.dot((targets - X * W.transpose()).rowwise().squaredNorm());
      const double found = h.sum() > 0 ? squares / (K * h.sum()) : 1;
      variance[0] = static_cast<T>(std::max(found, how.least_variance));
    }
    detail::assign(output, W);
  }
  double penalty(const EMOptions& how) const { return detail::penalty(detail::matrix_of(output), how.ridge); }
};

// An inner node with `Branch` children.
template <int D, int K, Leaf Kind, class T, int Branch, int... Rest>
struct HierarchicalMixture<D, K, Kind, T, Branch, Rest...> {
  static_assert(Branch >= 2, "HierarchicalMixture: a node has at least two children");
  using Scalar = T;
  using Child = HierarchicalMixture<D, K, Kind, T, Rest...>;
  static constexpr int leaves = Branch * Child::leaves;

  Linear<D, Branch, T> gate;
  HeapArray<Child, Branch> children;

  static constexpr auto fields() {
    return Fields{Field{"gate", &HierarchicalMixture::gate},
                  Field{"children", &HierarchicalMixture::children}};
  }
  struct Tape {
    Tokens<Branch, T> g;          // probabilities of the children
    Tokens<Branch, T> posterior;  // given the target
    Tokens<1, T> log_likelihood;
    HeapArray<typename Child::Tape, Branch> children;
    void resize(const Pass& pass) { resize_all(pass, g, posterior, log_likelihood); }
  };
  struct Scratch {
    Tokens<Branch, T> d_gate;
    Tokens<1, T> weights;  // of a child
    typename Child::Scratch child;
    void resize(const Pass& pass) { resize_all(pass, d_gate, weights, child); }
  };

  // Probabilities of all gates, outputs of all leaves, and with targets [tokens, K] the log-likelihood of
  // each token and the posteriors. Without targets: an empty In.
  void forward(In<D, T> x, In<K, T> target, Tape& tape, const Pass& pass) const {
    check(target.empty() || target.count == x.count, "HierarchicalMixture: ", target.count, " targets for ",
          x.count, " tokens");
    tape.resize(pass);
    gate.forward(x, tape.g, pass);
    for (int c = 0; c < Branch; ++c) children[at(c)].forward(x, target, tape.children[at(c)], pass);
    for (Index n = 0; n < x.count; ++n) {
      T *const g = tape.g[n], *const h = tape.posterior[n];
      std::copy_n(g, Branch, h);
      const T lse = kernels::softmax(g, Branch);
      for (int c = 0; c < Branch; ++c) h[c] += *tape.children[at(c)].log_likelihood[n] - lse;
      *tape.log_likelihood[n] = kernels::softmax(h, Branch);
    }
  }
  // The mean of the target given x, after forward: y is overwritten.
  void mean(const Tape& tape, Out<K, T> y) const {
    std::fill_n(y.data, y.count * K, T(0));
    const std::vector<T> ones(static_cast<std::size_t>(y.count), T(1));
    add_mean(tape, ones.data(), y);
  }
  void add_mean(const Tape& tape, const T* weights, Out<K, T> y) const {
    std::vector<T> of_child(static_cast<std::size_t>(y.count));
    for (int c = 0; c < Branch; ++c) {
      for (Index n = 0; n < y.count; ++n) of_child[static_cast<std::size_t>(n)] = weights[n] * tape.g[n][c];
      children[at(c)].add_mean(tape.children[at(c)], of_child.data(), y);
    }
  }
  // Gradient of sum_n weights_n log P(d_n | x_n), weights [tokens]; added to dx, which may be empty.
  //   d gate = w (h - g),   the weight of child c is w h_c
  void backward(In<D, T> x, In<K, T> target, const Tape& tape, const T* weights, Sum<D, T> dx,
                HierarchicalMixture& grad, Scratch& s, const Pass& pass) const {
    s.resize(pass);
    for (Index n = 0; n < x.count; ++n)
      for (int c = 0; c < Branch; ++c) s.d_gate[n][c] = weights[n] * (tape.posterior[n][c] - tape.g[n][c]);
    gate.backward(x, s.d_gate, dx, grad.gate, pass);
    for (int c = 0; c < Branch; ++c) {
      for (Index n = 0; n < x.count; ++n) *s.weights[n] = weights[n] * tape.posterior[n][c];
      children[at(c)].backward(x, target, tape.children[at(c)], s.weights[0], dx, grad.children[at(c)],
                               s.child, pass);
    }
  }
  // The M-step with posteriors h [N] of this node: gates by iteratively reweighted least squares.
  void maximise(const RowMatrix& X, const RowMatrix& targets, const Tape& tape, const Eigen::VectorXd& h,
                const EMOptions& how) {
    RowMatrix R(X.rows(), Branch);
    for (Eigen::Index n = 0; n < R.rows(); ++n)
      for (int c = 0; c < Branch; ++c) R(n, c) = h[n] * static_cast<double>(tape.posterior[n][c]);
    RowMatrix V = detail::matrix_of(gate);
    improve_logistic(X, R, V, how.ridge, how.gate_steps);
    detail::assign(gate, V);
    for (int c = 0; c < Branch; ++c)
      children[at(c)].maximise(X, targets, tape.children[at(c)], R.col(c), how);
  }
  double penalty(const EMOptions& how) const {
    double sum = detail::penalty(detail::matrix_of(gate), how.ridge);
    for (const Child& child : children) sum += child.penalty(how);
    return sum;
  }

 private:
  static constexpr std::size_t at(int c) { return static_cast<std::size_t>(c); }
};

// sum_n log P(d_n | x_n), after forward with targets.
template <class Tape>
double total_log_likelihood(const Tape& tape) {
  double sum = 0;
  for (Index n = 0; n < tape.log_likelihood.count(); ++n) sum += static_cast<double>(*tape.log_likelihood[n]);
  return sum;
}

// One pass of expectation maximisation over x and targets: posteriors (E), then gates and leaves (M). Returns
// the log-likelihood before the pass minus the penalty of all weights, which no pass lowers but for rounding.
template <class Mixture, int D, int K, class T>
double em_pass(Mixture& mixture, In<D, T> x, In<K, T> target, typename Mixture::Tape& tape,
               const EMOptions& how = {}) {
  check(how.ridge > 0 && how.least_variance > 0 && how.gate_steps > 0,
        "em_pass: ridge, least_variance and gate_steps must be above 0");
  mixture.forward(x, target, tape, Pass{.shape = {1, x.count}});
  const double before = total_log_likelihood(tape) - mixture.penalty(how);
  RowMatrix X(x.count, D + 1), targets(x.count, K);
  for (Index n = 0; n < x.count; ++n) {
    for (int i = 0; i < D; ++i) X(n, i) = static_cast<double>(x[n][i]);
    X(n, D) = 1;
    for (int k = 0; k < K; ++k) targets(n, k) = static_cast<double>(target[n][k]);
  }
  mixture.maximise(X, targets, tape, Eigen::VectorXd::Ones(x.count), how);
  return before;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
