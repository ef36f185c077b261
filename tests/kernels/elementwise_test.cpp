#include <moegpt/kernels/elementwise.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

TEST_CASE("add sums element by element, also in place and with more threads than rows") {
  const auto a = random_tokens<3, float>(601, 1), b = random_tokens<3, float>(601, 2);
  Tokens<3, float> y(601);
  kernels::add<float>(Exec{3}, a.view(), b.view(), y);
  Tokens<3, float> in_place = a;
  kernels::add<float>(Exec{1}, in_place, b.view(), in_place);
  CHECK(same_bits(y, in_place));
  CHECK(y[600][2] == a[600][2] + b[600][2]);
  CHECK(y[0][0] == a[0][0] + b[0][0]);
}
