#include <moegpt/model/batch.hpp>

#include "../support/catch.hpp"

using namespace moegpt;

TEST_CASE("a batch has batch times length tokens") {
  const Batch batch{{3, 5}};
  CHECK(batch.shape.tokens() == 15);
}

TEST_CASE("documents end with their separator, and no document crosses a sequence") {
  const std::vector<Rows> expected = {{0, 2}, {0, 2}, {2, 2}, {2, 2}, {0, 1}, {1, 3}, {1, 3}, {1, 3}};
  const auto documents = documents_of(std::vector<int>{5, 9, 6, 7, 9, 7, 8, 9}, {2, 4}, 9);
  REQUIRE(documents.size() == expected.size());
  for (std::size_t n = 0; n < expected.size(); ++n) {
    CHECK(documents[n].first == expected[n].first);
    CHECK(documents[n].count == expected[n].count);
  }
  CHECK_THROWS_WITH(documents_of(std::vector<int>{1, 2}, {1, 3}, 9),
                    Catch::Contains("2 ids for 1 x 3 tokens"));
}

TEST_CASE("a batch written by hand needs inputs and targets only") {
  const Batch batch{{1, 2}, {4, 5}, {5, 6}};
  CHECK(batch.inputs.size() == 2);
  CHECK(batch.targets.back() == 6);
  CHECK(batch.starts.empty());
}
