#include <moegpt/core/check.hpp>

#include "support/catch.hpp"

using namespace moegpt;

TEST_CASE("a failed check throws its concatenated parts, prefixed with moegpt") {
  const std::string name = "weights.bin";
  CHECK_THROWS_AS(check(false, "x"), std::invalid_argument);
  CHECK_THROWS_WITH(check(false, "found ", 3, " of ", 7L, " tokens in ", name, std::string_view(", stop")),
                    "moegpt: found 3 of 7 tokens in weights.bin, stop");
}

TEST_CASE("a check that holds does nothing") { CHECK_NOTHROW(check(true, "never seen ", 1)); }
