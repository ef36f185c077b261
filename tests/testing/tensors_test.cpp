#include <moegpt/testing/tensors.hpp>

#include "support/catch.hpp"

using namespace moegpt;

namespace {

struct Pair {
  Weight<double, 3, 2> a;
  Weight<double, 4> b;  // released: frozen
  Weight<double, 5> c;  // a buffer
  static constexpr auto fields() {
    return Fields{Field{"a", &Pair::a}, Field{"b", &Pair::b}, Field{"c", &Pair::c, Kind::buffer}};
  }
};

}  // namespace

TEST_CASE("weights are drawn with the spread that was asked for, the same ones from the same numbers") {
  Pair x, y, z;
  Rng one(1), again(1), other(2);
  testing::draw_weights(x, one, 0.5);
  testing::draw_weights(y, again, 0.5);
  testing::draw_weights(z, other, 0.5);
  CHECK(testing::same_bits(x, y));
  CHECK_FALSE(testing::same_bits(x, z));
  double largest = 0;
  for (const double v : x.a) largest = std::max(largest, std::abs(v));
  CHECK((largest > 0.1 && largest < 3));
}

TEST_CASE("tensors to compare are those that train and are not empty") {
  Pair x, gradient;
  x.b.release();
  std::vector<testing::TensorUnderTest> tensors;
  testing::add_tensors(tensors, x, gradient);
  REQUIRE(tensors.size() == 1);
  CHECK(tensors[0].path == "a");
  CHECK(tensors[0].size == 6);
}

TEST_CASE("gradients add if the second is the start and twice the first, except in buffers") {
  Pair once, twice;
  testing::set_all(once, 3);
  testing::set_all(twice, 7);
  CHECK(testing::adds(once, twice, 1));
  twice.c[2] = 0;
  CHECK(testing::adds(once, twice, 1));
  twice.b[3] += 1e-6;
  CHECK_FALSE(testing::adds(once, twice, 1));
}

TEST_CASE("one bit makes a difference") {
  Pair x, y;
  testing::set_all(x, 0);
  testing::set_all(y, 0);
  CHECK(testing::same_bits(x, y));
  y.c[4] = -0.0;
  CHECK_FALSE(testing::same_bits(x, y));
}
