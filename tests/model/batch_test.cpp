#include <moegpt/model/batch.hpp>

#include "../support/catch.hpp"

using namespace moegpt;

TEST_CASE("a batch has batch times length tokens") {
  const Batch batch{{3, 5}};
  CHECK(batch.shape.tokens() == 15);
}

TEST_CASE("a batch written by hand needs inputs and targets only") {
  const Batch batch{{1, 2}, {4, 5}, {5, 6}};
  CHECK(batch.inputs.size() == 2);
  CHECK(batch.targets.back() == 6);
  CHECK(batch.starts.empty());
}
