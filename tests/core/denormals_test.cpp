#include <moegpt/core/denormals.hpp>

#include "support/catch.hpp"

#include <cfenv>
#include <limits>

using namespace moegpt;

namespace {

template <class T>
bool half_of_smallest_normal_is_alive() {
  const volatile T tiny = std::numeric_limits<T>::min();
  return tiny / 2 > 0;
}
template <class T>
bool denormal_operand_is_alive() {
  const volatile T tiny = std::numeric_limits<T>::denorm_min();
  return tiny * T(1e30) > 0;
}

}  // namespace

TEMPLATE_TEST_CASE("denormal results and operands are zero during its lifetime, and preserved after it", "",
                   float, double) {
  using T = TestType;
  CHECK(half_of_smallest_normal_is_alive<T>());
  {
    const FlushDenormals outer;
    {
      const FlushDenormals inner;
      CHECK_FALSE(half_of_smallest_normal_is_alive<T>());
    }
    CHECK_FALSE(half_of_smallest_normal_is_alive<T>());  // the outer one still exists
    CHECK_FALSE(denormal_operand_is_alive<T>());
  }
  CHECK(half_of_smallest_normal_is_alive<T>());
  CHECK(denormal_operand_is_alive<T>());
}

TEST_CASE("exception flags raised in between are kept") {
  std::feclearexcept(FE_ALL_EXCEPT);
  {
    const FlushDenormals flush;
    const volatile float zero = 0;
    const volatile float result = 1 / zero;
    (void)result;
  }
  CHECK(std::fetestexcept(FE_DIVBYZERO));
  std::feclearexcept(FE_ALL_EXCEPT);
}
