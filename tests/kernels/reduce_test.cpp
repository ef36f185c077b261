#include <moegpt/kernels/reduce.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

TEMPLATE_TEST_CASE("sum, dot and squared norm agree with plain sums in long double, at every length", "",
                   float, double) {
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

TEST_CASE("the bits of a sum do not depend on the address of its elements") {
  const auto x = random_numbers<float>(37, 3);
  Buffer<float> moved(64);
  for (const Index at : {0, 1, 3, 7, 20}) {
    std::copy(x.begin(), x.end(), moved.begin() + at);
    CHECK(kernels::sum(moved.data() + at, 37) == kernels::sum(x.data(), 37));
  }
}

TEMPLATE_TEST_CASE("scale writes a multiple and axpy adds one, at every length and not beyond it", "", float,
                   double) {
  for (Index n = 0; n <= 40; ++n) {
    const auto x = random_numbers<TestType>(n, 4);
    Buffer<TestType> y(n + 1), z(n + 1);
    y.fill(7);
    z.fill(7);
    kernels::scale<TestType>(n, 2, x.data(), y.data());
    kernels::axpy<TestType>(n, 2, x.data(), z.data());
    for (Index i = 0; i < n; ++i) {
      CHECK(y[i] == 2 * x[i]);
      CHECK(z[i] == 7 + 2 * x[i]);  // doubling is exact, so there is one rounding
    }
    CHECK(y[n] == 7);
    CHECK(z[n] == 7);
  }
}

TEMPLATE_TEST_CASE("sum_rows adds rows in order to the old values, for any width and number of threads", "",
                   float, double) {
  const Index rows = 7;
  for (Index cols = 1; cols <= 150; cols += cols < 70 ? 1 : 37) {
    const Index stride = cols + 3;
    const auto x = random_numbers<TestType>(rows * stride, 5);
    Buffer<TestType> expected(cols + 1), y(cols + 1);
    expected.fill(3);
    for (Index r = 0; r < rows; ++r)
      for (Index j = 0; j < cols; ++j) expected[j] += x[r * stride + j];
    for (const int threads : {1, 3}) {
      y.fill(3);
      kernels::sum_rows<TestType>(Exec{threads}, {x.data(), rows, cols, stride}, y.data());
      CAPTURE(cols, threads);
      CHECK(same_bits(y, expected));
    }
  }
}
