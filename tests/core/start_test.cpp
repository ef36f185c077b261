#include <moegpt/core/start.hpp>

#include "support/catch.hpp"

using namespace moegpt;

TEST_CASE("a start is by shape unless a field says another") {
  CHECK(Start{} == Start{Start::Rule::by_shape, 0});
  CHECK(Start::zero == Start::at(0));
  CHECK(Start::one == Start::at(1));
  CHECK(Start::at(0.5) == Start{Start::Rule::constant, 0.5});
  CHECK_FALSE(Start::zero == Start{});
}

TEST_CASE("the start of a bias holds the inputs of its matrix") {
  CHECK(Start::bias(7) == Start{Start::Rule::bias, 7});
  CHECK_FALSE(Start::bias(7) == Start::bias(8));
  CHECK_FALSE(Start::embedding == Start::residual);
}
