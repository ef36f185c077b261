#include <moegpt/core/logarithm.hpp>

#include "support/catch.hpp"

#include <cmath>

using namespace moegpt;

namespace {
template <class T>
T log_of(T x) {
  return logarithm<T>(Vector<T>{} + x)[0];
}
}  // namespace

TEMPLATE_TEST_CASE("logarithm agrees with log to two units in the last place", "", float, double) {
  using T = TestType;
  double worst = 0;
  for (int i = 0; i <= 40000; ++i) {
    const double at = sizeof(T) == 4 ? -87 + 175.0 * i / 40000 : -708 + 1417.0 * i / 40000;
    for (const T x : {static_cast<T>(std::exp(at)), static_cast<T>(0.5 + i / 20000.0)}) {
      const long double exact = std::log(static_cast<long double>(x));
      if (x != 1) worst = std::max(worst, static_cast<double>(std::abs((log_of(x) - exact) / exact)));
    }
  }
  CHECK(worst <= 2 * static_cast<double>(std::numeric_limits<T>::epsilon()));
  CHECK(log_of(T(1)) == 0);
}

TEMPLATE_TEST_CASE("logarithm of zero, negative numbers, infinity and NaN", "", float, double) {
  using T = TestType;
  const T infinity = std::numeric_limits<T>::infinity();
  CHECK(log_of(T(0)) == -infinity);
  CHECK(log_of(infinity) == infinity);
  CHECK(std::isnan(log_of(T(-1))));
  CHECK(std::isnan(log_of(-infinity)));
  CHECK(std::isnan(log_of(std::numeric_limits<T>::quiet_NaN())));
  CHECK(log_of(std::numeric_limits<T>::max()) == Approx(std::log(std::numeric_limits<T>::max())));
}
