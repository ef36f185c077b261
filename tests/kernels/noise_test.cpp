#include <moegpt/kernels/noise.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

TEMPLATE_TEST_CASE("softplus is log(1 + exp a), also where one term is below the rounding of the other", "",
                   float, double) {
  using T = TestType;
  for (const double a : {-80.0, -30.0, -12.5, -1.0, -1e-3, 0.0, 1e-3, 0.7, 9.0, 40.0, 1e4}) {
    const double exact =
        std::max(a, 0.0) + std::log1p(std::exp(-std::abs(static_cast<double>(static_cast<T>(a)))));
    CAPTURE(a);
    CHECK(kernels::softplus<T>(Vector<T>{} + static_cast<T>(a))[0] ==
          Approx(exact).epsilon(sizeof(T) == 4 ? 4e-7 : 1e-15));
  }
}

TEST_CASE("noise is added to exactly n elements, and its backward is its derivative") {
  const Index n = 300;  // more than one chunk, and a tail
  const auto normal = random_numbers<double>(n, 1), a = random_numbers<double>(n, 2),
             dh = random_numbers<double>(n, 3);
  Buffer<double> h(n + 1), da(n + 1), up(n), down(n);
  h[n] = da[n] = 7;
  kernels::add_noise(normal.data(), a.data(), 0.01, h.data(), n);
  kernels::add_noise_backward(normal.data(), a.data(), dh.data(), da.data(), n);
  CHECK(h[n] == 7);
  CHECK(da[n] == 7);
  for (Index i = 0; i < n; ++i) {
    auto noise = [&](double at) { return normal[i] * (std::log1p(std::exp(at)) + 0.01); };
    REQUIRE(h[i] == Approx(noise(a[i])).epsilon(1e-14));
    const double step = 1e-5;  // off by about step^2 + 1e-16 / step
    REQUIRE(da[i] == Approx(dh[i] * (noise(a[i] + step) - noise(a[i] - step)) / (2 * step)).margin(1e-9));
  }
}
