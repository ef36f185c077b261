#include <moegpt/routing/ranks.hpp>

#include "support/catch.hpp"

using namespace moegpt;

namespace {

// Three ranks in one process: rank r has the values of this rank times r + 1.
Ranks three_ranks() {
  Ranks ranks;
  ranks.count = 3;
  ranks.gather = [](void*, const void* mine, void* all, Index bytes) {
    const auto* from = static_cast<const Index*>(mine);
    auto* to = static_cast<Index*>(all);
    const Index n = bytes / Index{sizeof(Index)};
    for (Index r = 0; r < 3; ++r)
      for (Index i = 0; i < n; ++i) to[r * n + i] = (r + 1) * from[i];
  };
  return ranks;
}

}  // namespace

TEST_CASE("ranks sum values over all of them, and agree if all are equal") {
  const Ranks ranks = three_ranks();
  Index values[] = {1, 5};
  ranks.sum(values, 2);
  CHECK(values[0] == 6);
  CHECK(values[1] == 30);
  CHECK(ranks.agree(0));
  CHECK_FALSE(ranks.agree(2));
}

TEST_CASE("parts are added in their order") {
  const float parts[] = {1e8f, 1, -1e8f, 0, 1, 2};  // [3, 2]; in another order the first sum is 1
  float sum[2];
  sum_parts(parts, 3, 2, sum);
  CHECK(sum[0] == (1e8f + -1e8f) + 1);
  CHECK(sum[1] == 3);
}
