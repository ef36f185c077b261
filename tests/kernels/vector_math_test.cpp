#include <moegpt/kernels/activations.hpp>
#include <moegpt/kernels/vector_math.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {
template <class T>
T exp_of(T x) {
  kernels::map(Index{1}, &x, &x, [](Vector<T> v) { return kernels::exponential(v); });
  return x;
}
}  // namespace

TEMPLATE_TEST_CASE("exponential agrees with exp to two units in the last place", "", float, double) {
  using T = TestType;
  const double lowest = sizeof(T) == 4 ? -87 : -708, highest = sizeof(T) == 4 ? 88 : 709;
  double worst = 0;
  for (int i = 0; i <= 20000; ++i) {
    const T x = static_cast<T>(lowest + (highest - lowest) * i / 20000);
    const long double exact = std::exp(static_cast<long double>(x));
    worst = std::max(worst, static_cast<double>(std::abs(exp_of(x) - exact) / exact));
  }
  CHECK(worst <= 2 * static_cast<double>(std::numeric_limits<T>::epsilon()));
  CHECK(exp_of(T(0)) == 1);
}

TEMPLATE_TEST_CASE("exponential of infinities, NaN, very large and very small numbers", "", float, double) {
  using T = TestType;
  const T infinity = std::numeric_limits<T>::infinity();
  CHECK(exp_of(infinity) == infinity);
  CHECK(exp_of(-infinity) == 0);
  CHECK(exp_of(T(1e6)) == infinity);
  CHECK(exp_of(T(-1e6)) == 0);
  CHECK(exp_of(std::numeric_limits<T>::max()) == infinity);
  CHECK(exp_of(std::numeric_limits<T>::lowest()) == 0);
  CHECK(std::isnan(exp_of(std::numeric_limits<T>::quiet_NaN())));
}

TEMPLATE_TEST_CASE("error_function agrees with erf to four units in the last place, and is odd", "", float,
                   double) {
  using T = TestType;
  double worst = 0;
  for (int i = 1; i <= 20000; ++i) {
    const T x = static_cast<T>(i) / 4000;
    const double exact = std::erf(static_cast<double>(x));
    const T found = kernels::error_function(Vector<T>{} + x)[0];
    worst = std::max(worst, std::abs(static_cast<double>(found) - exact) / exact);
    REQUIRE(kernels::error_function(Vector<T>{} - x)[0] == -found);
  }
  CHECK(worst <= 4 * static_cast<double>(std::numeric_limits<T>::epsilon()));
  CHECK(kernels::error_function(Vector<T>{} + 100)[0] == 1);
  CHECK(std::isnan(kernels::error_function(Vector<T>{} + std::numeric_limits<T>::quiet_NaN())[0]));
}

TEMPLATE_TEST_CASE("an element has the same bits at any index", "", float, double) {
  using T = TestType;
  const Index n = 3 * lanes<T> + 5;
  const auto x = random_numbers<T>(n, 1, 3), other = random_numbers<T>(n, 2);
  for (const Activation a :
       {Activation::gelu, Activation::gelu_erf, Activation::relu, Activation::silu, Activation::tanh}) {
    Buffer<T> all(n), alone(n), slopes(n), slope_alone(n), d_up(n), d_up_alone(n);
    kernels::activate(a, x.data(), all.data(), n);
    kernels::activate_backward(a, x.data(), other.data(), slopes.data(), n);
    for (Index i = 0; i < n; ++i) {
      kernels::activate(a, x.data() + i, alone.data() + i, 1);
      kernels::activate_backward(a, x.data() + i, other.data() + i, slope_alone.data() + i, 1);
    }
    CHECK(same_bits(all, alone));
    CHECK(same_bits(slopes, slope_alone));
    kernels::activate_gated_backward(a, x.data(), other.data(), x.data(), slopes.data(), d_up.data(), n);
    for (Index i = 0; i < n; ++i)
      kernels::activate_gated_backward(a, x.data() + i, other.data() + i, x.data() + i,
                                       slope_alone.data() + i, d_up_alone.data() + i, 1);
    CHECK(same_bits(slopes, slope_alone));
    CHECK(same_bits(d_up, d_up_alone));
  }
}

TEST_CASE("map and map2 write exactly n elements, also in place") {
  for (Index n = 0; n <= 40; ++n) {
    Buffer<float> x(41), y(41);
    x.fill(2);
    y.fill(3);
    kernels::map(n, x.data(), x.data(), [](Vector<float> v) { return v + 1; });
    kernels::map2(n, x.data(), y.data(), y.data(), [](Vector<float> a, Vector<float> b) { return a * b; });
    for (Index i = 0; i < 41; ++i) {
      CHECK(x[i] == (i < n ? 3 : 2));
      CHECK(y[i] == (i < n ? 9 : 3));
    }
  }
}
