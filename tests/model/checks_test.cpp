#include <moegpt/model/checks.hpp>

#include "support.hpp"

#include <limits>
#include <vector>

TEST_CASE("an id outside the vocabulary is rejected by its place, and one below the lowest allowed too") {
  const std::vector<int> ids{0, 6, 3, -1};
  CHECK_NOTHROW(check_ids(ids, "target", -1, 7));
  CHECK(
      contains(refusal([&] { check_ids(ids, "input", 0, 7); }), "input 3 has token id -1, expected 0 .. 6"));
  CHECK(
      contains(refusal([&] { check_ids(ids, "input", -1, 6); }), "input 1 has token id 6, expected 0 .. 5"));
}

TEST_CASE(
    "a shape is rejected that is empty, beyond the context or the workspace, or has another number of ids") {
  const std::vector<int> six(6);
  CHECK_NOTHROW(check_shape(six, {2, 3}, {2, 3}, 8));
  CHECK(contains(refusal([&] { check_shape(six, {2, 0}, {2, 3}, 8); }), "2 sequences of 0"));
  CHECK(contains(refusal([&] { check_shape(six, {2, 9}, {2, 9}, 8); }),
                 "9 tokens, but the model's context is 8"));
  CHECK(contains(refusal([&] { check_shape(six, {2, 3}, {1, 3}, 8); }), "made for 1 x 3"));
  CHECK(contains(refusal([&] { check_shape(six, {1, 5}, {2, 3}, 8); }), "6 ids for 1 x 5"));
}

TEST_CASE("a number that is none is blamed on a weight, or on activations if no weight is guilty") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto blames = [&](const char* weight) {
    return refusal<NotFinite>([&] { not_finite("loss", nan, weight); });
  };
  CHECK(contains(blames("head.weight[3]"), "the weight head.weight[3] is not finite"));
  CHECK(contains(blames(""), "activations overflowed"));
}

TEST_CASE("a batch so large that its number of tokens wraps to zero is rejected") {
  const Index huge = Index{1} << 62;
  CHECK(contains(refusal([&] { check_shape({}, {huge, 4}, {2, 4}, 8); }), "made for 2 x 4"));
}
