#include <moegpt/kernels/reduce.hpp>
#include <moegpt/kernels/rotary.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {
constexpr Index d = 6;
Buffer<double> turned(Buffer<double> x, Index position, double direction = 1, double base = 100) {
  double cosine[d / 2], sine[d / 2];
  kernels::rotary_angles(position, base, d, cosine, sine);
  kernels::rotate(x.data(), cosine, sine, d, direction);
  return x;
}
double dot(const Buffer<double>& a, const Buffer<double>& b) { return kernels::dot(a.data(), b.data(), d); }
}  // namespace

TEST_CASE("features i and i + d/2 are rotated by position * base^(-2i/d)") {
  Buffer<double> x(d);
  x[1] = 1;  // i = 1: the angle is 5 * 100^(-1/3)
  const auto y = turned(x, 5);
  const double angle = 5 / std::cbrt(100.0);
  CHECK(y[1] == Approx(std::cos(angle)).epsilon(1e-14));
  CHECK(y[4] == Approx(std::sin(angle)).epsilon(1e-14));
  CHECK(y[0] == 0);
  CHECK(y[3] == 0);
}

TEST_CASE("position 0 rotates nothing, and the inverse rotation undoes a rotation") {
  const auto x = random_numbers<double>(d, 1);
  CHECK(same_bits(turned(x, 0), x));
  const auto back = turned(turned(x, 37), 37, -1);
  CHECK(distance(back.data(), x.data(), d) < 1e-14);
}

TEST_CASE("a rotation keeps the norm") {
  const auto x = random_numbers<double>(d, 2);
  for (const Index position : {1, 7, 1000}) {
    const auto y = turned(x, position);
    CHECK(dot(y, y) == Approx(dot(x, x)).epsilon(1e-14));
  }
}

TEST_CASE("the dot product of a rotated query and key depends on their distance only") {
  const auto q = random_numbers<double>(d, 3), k = random_numbers<double>(d, 4);
  const double near = dot(turned(q, 9), turned(k, 4));
  for (const Index shift : {1, 20, 3000})  // an angle of 3000 is itself off by 3000 * 1e-16
    CHECK(dot(turned(q, 9 + shift), turned(k, 4 + shift)) == Approx(near).epsilon(1e-11));
  CHECK(std::abs(dot(turned(q, 10), turned(k, 4)) - near) > 1e-3);
}
