#include <moegpt/kernels/dropout.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

TEST_CASE("a share p is dropped and the rest scaled, so the mean stays") {
  const Index rows = 1000, D = 101;  // odd: one draw decides two features, the last one alone
  for (const double p : {0.1, 0.5, 0.9}) {
    Index dropped = 0, last = 0;
    double total = 0;
    for (Index r = 0; r < rows; ++r) {
      Buffer<double> x(D);
      x.fill(1);
      kernels::drop(x.data(), D, p, Key{5}, r);
      for (const double v : x) {
        REQUIRE((v == 0 || v == 1 / (1 - p)));
        dropped += v == 0;
        total += v;
      }
      last += x[D - 1] == 0;
    }
    const double n = static_cast<double>(rows * D), deviation = std::sqrt(p * (1 - p));
    CHECK(static_cast<double>(dropped) / n ==
          Approx(p).margin(4 * deviation / std::sqrt(n)));  // four standard errors
    CHECK(total / n == Approx(1).margin(4 * deviation / (1 - p) / std::sqrt(n)));
    CHECK(static_cast<double>(last) / rows == Approx(p).margin(4 * deviation / std::sqrt(rows)));
  }
}

TEST_CASE("a row's mask depends on its key and index, and different rows have different masks") {
  auto mask = [](Key key, Index row) {
    Buffer<float> x(16);
    x.fill(1);
    kernels::drop(x.data(), 16, 0.5, key, row);
    return x;
  };
  CHECK(same_bits(mask(Key{1}, 3), mask(Key{1}, 3)));
  int equal = 0;
  for (Index row = 0; row < 100; ++row) equal += same_bits(mask(Key{1}, row), mask(Key{1}, row + 1));
  equal += same_bits(mask(Key{1}, 3), mask(Key{2}, 3));
  CHECK(equal == 0);  // by chance: 101 / 65536
}

TEST_CASE("rows of odd width share no draws") {
  const Index rows = 4000;
  Buffer<double> x(3 * rows);
  x.fill(1);
  for (Index r = 0; r < rows; ++r) kernels::drop(x.data() + 3 * r, 3, 0.5, Key{6}, r);
  Index equal = 0;  // the last feature of a row and the first of the next
  for (Index r = 1; r < rows; ++r) equal += x[3 * r - 1] == x[3 * r];
  CHECK(static_cast<double>(equal) / rows ==
        Approx(0.5).margin(4 * 0.5 / std::sqrt(rows)));  // four standard errors
}

TEST_CASE("the two features of one draw are dropped independently") {
  Index both = 0, n = 20000;
  for (Index r = 0; r < n; ++r) {
    float x[2] = {1, 1};
    kernels::drop(x, 2, 0.5, Key{9}, r);
    both += x[0] == 0 && x[1] == 0;
  }
  CHECK(static_cast<double>(both) / static_cast<double>(n) ==
        Approx(0.25).margin(4 * 0.433 / std::sqrt(20000.0)));
}
