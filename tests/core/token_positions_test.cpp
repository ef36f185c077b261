#include <moegpt/core/token_positions.hpp>

#include "support/catch.hpp"

using namespace moegpt;

TEST_CASE("a token's position is that of its sequence's first token plus its offset") {
  const TokenPositions common{.length = 3, .first = 5};
  CHECK(common.first_of(1) == 5);
  CHECK(common[0] == 5);
  CHECK(common[4] == 6);  // the second token of the second sequence

  const Index firsts[2] = {7, 0};
  const TokenPositions own{.length = 3, .first = 5, .firsts = firsts};
  CHECK(own.first_of(0) == 7);
  CHECK(own[2] == 9);
  CHECK(own[3] == 0);
}
