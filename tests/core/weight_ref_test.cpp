#include <moegpt/core/weight_ref.hpp>

#include "support/catch.hpp"

#include <vector>

using namespace moegpt;

TEST_CASE("a reference has its weight's shape, memory, mark and emptiness, and releases and allocates it") {
  Weight<float, 2, 3> weight;
  const WeightRef<float> w(weight);
  CHECK(std::vector(w.shape.begin(), w.shape.end()) == std::vector{2, 3});
  CHECK((w.extent == 6 && w.rows == 2 && w.cols == 3));
  w.eigen()(1, 2) = 5;
  w.touched = true;
  CHECK(weight[5] == 5);
  CHECK(weight.touched);
  const WeightRef<const float> read(w);
  CHECK((read[5] == 5 && read.data() == weight.data() && &read.touched == &weight.touched));
  w.release();
  CHECK((weight.empty() && w.empty() && read.empty()));
  w.allocate();
  REQUIRE(weight.size() == 6);
  CHECK(weight[5] == 0);
}
