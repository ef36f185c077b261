#include <moegpt/classical/weighted_fits.hpp>

#include "support/catch.hpp"

using namespace moegpt;

namespace {

RowMatrix inputs(Eigen::Index count) {
  RowMatrix X(count, 3);
  for (Eigen::Index n = 0; n < count; ++n) X.row(n) << std::sin(3.0 * n), std::cos(5.0 * n + 1), 1;
  return X;
}

}  // namespace

TEST_CASE("weighted least squares has a gradient of zero, and finds an exact map without a penalty") {
  const RowMatrix X = inputs(20);
  RowMatrix W(2, 3);
  W << 1, -2, 0.5, 3, 0.25, -1;
  const RowMatrix T = X * W.transpose();
  Eigen::VectorXd h(20);
  for (Eigen::Index n = 0; n < 20; ++n) h[n] = n % 3;
  CHECK((weighted_least_squares(X, h, T, 1e-12) - W).norm() < 1e-8);
  RowMatrix noisy = T;
  for (Eigen::Index n = 0; n < 20; ++n) noisy(n, 0) += std::sin(7.0 * n);
  const RowMatrix found = weighted_least_squares(X, h, noisy, 0.5);
  RowMatrix gradient = (h.asDiagonal() * (noisy - X * found.transpose())).transpose() * X;
  gradient.leftCols(2) -= 0.5 * found.leftCols(2);
  CHECK(gradient.norm() < 1e-8);
}

TEST_CASE("Newton steps reach the maximum of the penalised likelihood and never lower it") {
  const RowMatrix X = inputs(40);
  RowMatrix R = RowMatrix::Zero(40, 3), V = RowMatrix::Constant(3, 3, 4.0);
  V(0, 0) = -30;  // far away: full steps would diverge
  for (Eigen::Index n = 0; n < 40; ++n) R(n, (n * n) % 3) = 0.5 + n % 2;
  double last = logistic_likelihood(X, R, V, 0.1);
  for (int step = 0; step < 60; ++step) {
    improve_logistic(X, R, V, 0.1);
    const double now = logistic_likelihood(X, R, V, 0.1);
    CHECK(now >= last);
    last = now;
  }
  for (Eigen::Index i = 0; i < V.size(); ++i) {  // no direction raises it
    RowMatrix moved = V;
    moved.data()[i] += 1e-3;
    CHECK(logistic_likelihood(X, R, moved, 0.1) <= last + 1e-9);
  }
}

TEST_CASE("a component without data keeps finite weights") {
  const RowMatrix X = inputs(5);
  const RowMatrix W = weighted_least_squares(X, Eigen::VectorXd::Zero(5), RowMatrix::Ones(5, 1), 1e-3);
  CHECK(W.allFinite());
}
