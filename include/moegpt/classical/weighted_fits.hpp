#pragma once
// The two M-steps of expectation maximisation for mixtures of linear models, in double: weighted least
// squares and weighted multinomial logistic regression, each with a ridge penalty. Rows of X [N, D + 1] are
// inputs with a last column of ones; the weights of that column, the biases, are not penalised.
#include <moegpt/core/check.hpp>

#include <Eigen/Cholesky>
#include <Eigen/Core>

#include <cmath>

namespace moegpt {
inline namespace MOEGPT_BUILD {

using RowMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

namespace detail {

// ridge / 2 |W|^2 without the last column, the biases.
inline double penalty(const RowMatrix& W, double ridge) {
  return ridge / 2 * W.leftCols(W.cols() - 1).squaredNorm();
}

}  // namespace detail

// W [K, D + 1] that minimises sum_n h_n |t_n - W x_n|^2 / 2 + ridge / 2 |W|^2, by Cholesky decomposition
// (LDLT) of X^T H X + ridge I. h [N] at least 0, targets T [N, K].
inline RowMatrix weighted_least_squares(const RowMatrix& X, const Eigen::VectorXd& h, const RowMatrix& T,
                                        double ridge) {
  const RowMatrix HX = h.asDiagonal() * X;
  RowMatrix A = X.transpose() * HX;
  A.diagonal().head(A.rows() - 1).array() += ridge;
  A(A.rows() - 1, A.rows() - 1) += 1e-12 + 1e-12 * h.sum();  // a component without data keeps its bias finite
  return (A.ldlt().solve(HX.transpose() * T)).transpose();
}

// sum_n sum_c R_nc log softmax(V x_n)_c - ridge / 2 |V|^2, R [N, C] at least 0.
inline double logistic_likelihood(const RowMatrix& X, const RowMatrix& R, const RowMatrix& V, double ridge) {
  const RowMatrix Z = X * V.transpose();
  double sum = 0;
  for (Eigen::Index n = 0; n < Z.rows(); ++n) {
    const double most = Z.row(n).maxCoeff();
    const double lse = most + std::log((Z.row(n).array() - most).exp().sum());
    sum += (R.row(n).array() * (Z.row(n).array() - lse)).sum();
  }
  return sum - detail::penalty(V, ridge);
}

// Raises logistic_likelihood by `steps` Newton steps from V [C, D + 1] (iteratively reweighted least
// squares), each halved until the likelihood does not fall; V is unchanged if no step of 40 halvings raises
// it.
inline void improve_logistic(const RowMatrix& X, const RowMatrix& R, RowMatrix& V, double ridge,
                             int steps = 1) {
  const Eigen::Index N = X.rows(), C = V.rows(), P = V.cols();
  double now = logistic_likelihood(X, R, V, ridge);
  for (int step = 0; step < steps; ++step) {
    RowMatrix Y = X * V.transpose();  // softmax
    for (Eigen::Index n = 0; n < N; ++n) {
      Y.row(n) = (Y.row(n).array() - Y.row(n).maxCoeff()).exp();
      Y.row(n) /= Y.row(n).sum();
    }
    const Eigen::VectorXd r = R.rowwise().sum();
    RowMatrix penalised = V;
    penalised.col(P - 1).setZero();
    const RowMatrix gradient = (R - r.asDiagonal() * Y).transpose() * X - ridge * penalised;
    RowMatrix A = RowMatrix::Zero(C * P, C * P);  // minus the Hessian
    for (Eigen::Index a = 0; a < C; ++a)
      for (Eigen::Index b = 0; b <= a; ++b) {
        const Eigen::VectorXd w = r.array() * Y.col(a).array() * ((a == b ? 1.0 : 0.0) - Y.col(b).array());
        const RowMatrix block = X.transpose() * (w.asDiagonal() * X);
        A.block(a * P, b * P, P, P) = block;
        A.block(b * P, a * P, P, P) = block.transpose();
      }
    for (Eigen::Index i = 0; i < C * P; ++i) A(i, i) += i % P == P - 1 ? 1e-9 + 1e-9 * r.sum() : ridge;
    const Eigen::VectorXd flat = Eigen::Map<const Eigen::VectorXd>(gradient.data(), C * P);
    const Eigen::VectorXd direction = A.ldlt().solve(flat);
    const RowMatrix move = Eigen::Map<const RowMatrix>(direction.data(), C, P);
    double length = 1;
    bool raised = false;
    for (int halving = 0; halving < 40 && !raised; ++halving, length /= 2) {
      const RowMatrix next = V + length * move;
      const double value = logistic_likelihood(X, R, next, ridge);
      raised = value >= now;
      if (raised) V = next, now = value;
    }
    if (!raised) return;
  }
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
