#include <moegpt/kernels/reduce.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

TEMPLATE_TEST_CASE("sum, dot and squared norm agree with plain sums in long double, at every length", "", float,
                   double) {
  for (Index n = 0; n <= 70; ++n) {
    const auto x = random_numbers<TestType>(n, 1), y = random_numbers<TestType>(n, 2);
    long double s = 0, d = 0, q = 0, magnitude = 0;
    for (Index i = 0; i < n; ++i) {
      s += x[i];
      d += static_cast<long double>(x[i]) * y[i];
      q += static_cast<long double>(x[i]) * x[i];
      magnitude += std::abs(x[i]) + std::abs(x[i] * y[i]);
    }
    // a sum of n terms rounds each partial sum once
    const double bound =
        static_cast<double>(n) * std::numeric_limits<TestType>::epsilon() * static_cast<double>(magnitude);
    CAPTURE(n);
    CHECK(std::abs(static_cast<double>(kernels::sum(x.data(), n) - s)) <= bound);
    CHECK(std::abs(static_cast<double>(kernels::dot(x.data(), y.data(), n) - d)) <= bound);
    CHECK(kernels::squared_norm(x.data(), n) == Approx(static_cast<double>(q)).epsilon(1e-14).margin(1e-300));
  }
}

TEST_CASE("the bits of a sum do not depend on where its numbers lie") {
  const auto x = random_numbers<float>(37, 3);
  Buffer<float> moved(64);
  for (const Index at : {0, 1, 3, 7, 20}) {
    std::copy(x.begin(), x.end(), moved.begin() + at);
    CHECK(kernels::sum(moved.data() + at, 37) == kernels::sum(x.data(), 37));
  }
}

TEST_CASE("axpy adds a multiple") {
  const float x[3] = {1, 2, 3};
  float y[3] = {10, 20, 30};
  kernels::axpy<float>(3, 2, x, y);
  CHECK(y[0] == 12);
  CHECK(y[2] == 36);
}
