#include <moegpt/kernels/softmax.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {
const double infinity = std::numeric_limits<double>::infinity();
const double not_a_number = std::numeric_limits<double>::quiet_NaN();
}  // namespace

TEST_CASE("softmax is exp(x) / sum exp(x), and returns log-sum-exp") {
  double x[3] = {0, std::log(2.0), std::log(5.0)};
  CHECK(kernels::softmax(x, 3) == Approx(std::log(8.0)).epsilon(1e-15));
  CHECK(x[0] == Approx(1.0 / 8).epsilon(1e-15));
  CHECK(x[1] == Approx(2.0 / 8).epsilon(1e-15));
  CHECK(x[2] == Approx(5.0 / 8).epsilon(1e-15));
}

TEST_CASE("adding a constant without rounding changes no bit of softmax and shifts log-sum-exp") {
  auto x = random_numbers<float>(13, 1), y = x;
  for (float& v : x) v = std::round(v * 64) / 64;  // exact together with 512 in float's 24 bits
  for (Index i = 0; i < 13; ++i) y[i] = x[i] + 512;
  const float a = kernels::softmax(x.data(), 13), b = kernels::softmax(y.data(), 13);
  CHECK(same_bits(x, y));
  CHECK(b - a == Approx(512).epsilon(1e-6));
}

TEST_CASE("softmax does not overflow for numbers too large for exp") {
  double x[2] = {1e4, 1e4 - 1};
  CHECK(kernels::softmax(x, 2) == Approx(1e4 + std::log1p(std::exp(-1.0))).epsilon(1e-15));
  CHECK(x[0] == Approx(1 / (1 + std::exp(-1.0))).epsilon(1e-12));
  float y[2] = {-1e30f, 1e30f};
  kernels::softmax(y, 2);
  CHECK(y[0] == 0);
  CHECK(y[1] == 1);
}

TEST_CASE("a row of minus infinities becomes zeros, an empty row stays empty") {
  double x[3] = {-infinity, -infinity, -infinity};
  CHECK(kernels::softmax(x, 3) == -infinity);
  for (const double v : x) CHECK(v == 0);
  CHECK(kernels::softmax(x, 0) == -infinity);
}

TEST_CASE("a NaN is never turned into a number") {
  double all[3] = {not_a_number, not_a_number, not_a_number};
  CHECK(std::isnan(kernels::softmax(all, 3)));
  CHECK((std::isnan(all[0]) && std::isnan(all[2])));
  double masked[2] = {-infinity, not_a_number};
  CHECK(std::isnan(kernels::softmax(masked, 2)));
  CHECK(std::isnan(masked[1]));
  double one[3] = {1, not_a_number, 2};
  CHECK(std::isnan(kernels::softmax(one, 3)));
  CHECK(std::isnan(one[1]));
}

TEST_CASE("softmax_backward adds the derivative of <softmax(z), ds>") {
  const int n = 7;
  auto z = random_numbers<double>(n, 2);
  const auto ds = random_numbers<double>(n, 3);
  auto s = z;
  kernels::softmax(s.data(), n);
  Buffer<double> dz(n);
  dz.fill(10);
  kernels::softmax_backward(s.data(), ds.data(), dz.data(), n);
  double total = 0;
  for (int i = 0; i < n; ++i) {
    auto value = [&](double d) {
      auto p = z;
      p[i] += d;
      kernels::softmax(p.data(), n);
      return kernels::dot(p.data(), ds.data(), n);
    };
    const double h = 1e-5;  // the difference is off by about h^2 + 1e-16 / h
    CHECK(dz[i] - 10 == Approx((value(h) - value(-h)) / (2 * h)).margin(1e-9));
    total += dz[i] - 10;
  }
  CHECK(total == Approx(0).margin(1e-13));  // shifting z changes nothing
}
