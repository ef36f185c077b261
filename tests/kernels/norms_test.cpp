#include <moegpt/kernels/norms.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

TEST_CASE("LayerNorm with gamma 1 and beta 0 has mean 0 and variance 1, whatever the scale of x") {
  const Index D = 37;
  Buffer<double> gamma(D), y(D);
  gamma.fill(1);
  for (const double scale : {1e-2, 1.0, 1e4}) {
    auto x = random_numbers<double>(D, 1, scale);
    for (double& v : x) v += 10 * scale;
    double mean, rstd;
    kernels::layer_norm(x.data(), gamma.data(), static_cast<double*>(nullptr), y.data(), mean, rstd, D, 0.0);
    CHECK(kernels::sum(y.data(), D) / D == Approx(0).margin(1e-13));
    CHECK(kernels::dot(y.data(), y.data(), D) / D == Approx(1).epsilon(1e-13));  // population variance
    CHECK(mean == Approx(10 * scale).epsilon(0.1));
    CHECK(rstd == Approx(1 / scale).epsilon(0.5));
  }
}

TEST_CASE("LayerNorm of a small row is computed by hand") {
  const double x[4] = {1, 3, 5, 7}, gamma[4] = {1, 2, 1, 1}, beta[4] = {0, 0, 10, 0};  // mean 4, variance 5
  double y[4], mean, rstd;
  kernels::layer_norm(x, gamma, beta, y, mean, rstd, 4, 4.0);  // 1 / sqrt(5 + 4) = 1/3
  CHECK(mean == 4);
  CHECK(rstd == Approx(1.0 / 3).epsilon(1e-15));
  CHECK(y[0] == Approx(-1).epsilon(1e-15));
  CHECK(y[1] == Approx(-2.0 / 3).epsilon(1e-15));
  CHECK(y[2] == Approx(10 + 1.0 / 3).epsilon(1e-15));
}

TEST_CASE("RMSNorm of a small row is computed by hand: no mean is subtracted") {
  const double x[2] = {1, 7}, gamma[2] = {1, 2};  // mean of squares 25
  double y[2], rstd;
  kernels::rms_norm(x, gamma, y, rstd, 2, 0.0);
  CHECK(y[0] == Approx(0.2).epsilon(1e-15));
  CHECK(y[1] == Approx(2.8).epsilon(1e-15));
}

TEST_CASE("a row of zeros gives zeros: epsilon is inside the root") {
  const float x[5] = {}, gamma[5] = {1, 1, 1, 1, 1};
  float y[5], mean, rstd;
  kernels::rms_norm(x, gamma, y, rstd, 5, 1e-5f);
  CHECK(rstd == Approx(1 / std::sqrt(1e-5)));
  for (const float v : y) CHECK(v == 0);
  kernels::layer_norm(x, gamma, static_cast<float*>(nullptr), y, mean, rstd, 5, 1e-5f);
  for (const float v : y) CHECK(v == 0);
}

TEST_CASE("gradients of a norm are orthogonal to the directions that it is invariant to") {
  const Index D = 19;
  const auto x = random_numbers<double>(D, 2), gamma = random_numbers<double>(D, 3),
             dy = random_numbers<double>(D, 4);
  Buffer<double> y(D), dx(D);
  double mean, rstd;
  kernels::layer_norm(x.data(), gamma.data(), static_cast<double*>(nullptr), y.data(), mean, rstd, D, 0.0);
  kernels::layer_norm_backward(x.data(), gamma.data(), mean, rstd, dy.data(), dx.data(), D);
  CHECK(kernels::sum(dx.data(), D) == Approx(0).margin(1e-13));            // shifting x changes nothing
  CHECK(kernels::dot(dx.data(), x.data(), D) == Approx(0).margin(1e-13));  // nor does scaling it
  kernels::rms_norm(x.data(), gamma.data(), y.data(), rstd, D, 0.0);
  kernels::rms_norm_backward(x.data(), gamma.data(), rstd, dy.data(), dx.data(), D);
  CHECK(kernels::dot(dx.data(), x.data(), D) == Approx(0).margin(1e-13));
}
