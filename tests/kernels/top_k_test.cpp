#include <moegpt/kernels/top_k.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <algorithm>
#include <numeric>
#include <set>

using namespace moegpt;

TEST_CASE("top_k is the beginning of a stable sort in descending order") {
  for (int n = 1; n <= 9; ++n)
    for (int k = 1; k <= n; ++k) {
      auto x = random_numbers<float>(n, static_cast<std::uint64_t>(n * 10 + k));
      for (float& v : x) v = std::round(v);  // many ties
      std::vector<int> order(static_cast<std::size_t>(n)), found(static_cast<std::size_t>(k));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
      kernels::top_k(x.data(), n, k, found.data());
      order.resize(static_cast<std::size_t>(k));
      CAPTURE(n, k);
      CHECK(found == order);
    }
}

TEST_CASE("equal values go to the lowest indices") {
  const float x[5] = {};
  int index[3];
  kernels::top_k(x, 5, 3, index);
  CHECK(index[0] == 0);
  CHECK(index[1] == 1);
  CHECK(index[2] == 2);
}

TEST_CASE("NaNs and infinities still give valid and different indices") {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  const double rows[][4] = {{nan, nan, nan, nan},
                            {nan, 1, nan, 2},
                            {1, nan, 2, nan},
                            {-infinity, -infinity, nan, -infinity},
                            {infinity, nan, -infinity, infinity}};
  for (const auto& row : rows)
    for (int k = 1; k <= 4; ++k) {
      int index[4];
      kernels::top_k(row, 4, k, index);
      CHECK(std::set<int>(index, index + k).size() == static_cast<std::size_t>(k));
      for (int j = 0; j < k; ++j) CHECK((index[j] >= 0 && index[j] < 4));
    }
}
