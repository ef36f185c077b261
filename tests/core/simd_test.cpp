#include <moegpt/core/simd.hpp>

#include "support/catch.hpp"

using namespace moegpt;

TEMPLATE_TEST_CASE("vectors load, compute element by element, sum and store at any address", "", float,
                   double) {
  constexpr int W = lanes<TestType>;
  STATIC_REQUIRE(W * sizeof(TestType) == MOEGPT_VECTOR_BYTES);
  TestType numbers[2 * W + 1];
  for (int i = 0; i < 2 * W + 1; ++i) numbers[i] = static_cast<TestType>(i);
  const Vector<TestType> a = load(numbers + 1), b = load(numbers + W);  // neither is aligned
  store(numbers + 1, a * b + a);
  TestType expected = 0;
  for (int i = 0; i < W; ++i) {
    const auto x = static_cast<TestType>(i + 1), y = static_cast<TestType>(i + W);
    CHECK(numbers[i + 1] == x * y + x);  // small integers: exact
    expected += x;
  }
  CHECK(sum_lanes<TestType>(a) == expected);
  for (int i = 0; i < W; ++i) CHECK(lane_numbers<TestType>()[i] == static_cast<TestType>(i));
  CHECK(numbers[0] == 0);
  CHECK(numbers[W + 1] == static_cast<TestType>(W + 1));  // not written beyond its lanes
}

TEMPLATE_TEST_CASE("the square root of a vector is that of its elements", "", float, double) {
  constexpr int W = lanes<TestType>;
  TestType x[W], y[W];
  for (int i = 0; i < W; ++i) x[i] = static_cast<TestType>(i) / 7;
  store(y, square_root(load(x)));
  for (int i = 0; i < W; ++i) CHECK(y[i] == std::sqrt(x[i]));
}

TEMPLATE_TEST_CASE("a loop over vectors visits each element once, the last ones as a padded vector", "",
                   float, double) {
  constexpr int W = lanes<TestType>;
  for (Index n = 0; n <= 3 * W + 1; ++n) {
    Buffer<TestType> x(n + 1);
    Index next = 0;
    for_each_vector<TestType>(n, [&](Index i, auto part) {
      CHECK(i == next);
      next += std::is_same_v<decltype(part), FullVector<TestType>> ? W : n - i;
      const auto padded = part.load(x.data() + i, 5);
      for (Index l = 0; l < W; ++l) CHECK(padded[l] == (i + l < n ? 0 : 5));
      part.store(x.data() + i, part.load(x.data() + i) + 1);
    });
    CHECK(next == n);
    for (Index i = 0; i < n; ++i) CHECK(x[i] == 1);
    CHECK(x[n] == 0);
  }
}
