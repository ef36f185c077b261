#include <moegpt/kernels/reduce.hpp>
#include <moegpt/kernels/rotary.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <algorithm>

using namespace moegpt;

namespace {
constexpr Index d = 6;
Buffer<double> turned(Buffer<double> x, Index position, double direction = 1,
                      const kernels::Rotary& rotary = {.width = d, .base = 100}) {
  double cosine[d / 2], sine[d / 2], frequencies[d / 2];
  for (Index i = 0; i < rotary.width / 2; ++i) frequencies[i] = rotary.frequency(i);
  kernels::rotary_angles(position, frequencies, rotary.length_factor(), rotary.width / 2, cosine, sine);
  if (rotary.pairing == Pairing::halves)
    kernels::rotate(x.data(), cosine, sine, rotary.width, direction);
  else
    kernels::rotate_adjacent(x.data(), cosine, sine, rotary.width, direction);
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

TEST_CASE("adjacent features are rotated as halves are, in another order of features") {
  const auto x = random_numbers<double>(d, 5);
  const auto halves = turned(x, 11);
  Buffer<double> reordered(d);
  for (Index i = 0; i < d / 2; ++i) reordered[2 * i] = x[i], reordered[2 * i + 1] = x[i + d / 2];
  const auto adjacent = turned(reordered, 11, 1, {.width = d, .pairing = Pairing::adjacent, .base = 100});
  for (Index i = 0; i < d / 2; ++i) {
    CHECK(adjacent[2 * i] == Approx(halves[i]).epsilon(1e-14));
    CHECK(adjacent[2 * i + 1] == Approx(halves[i + d / 2]).epsilon(1e-14));
  }
}

// The number of rotations in a context of 100 tokens falls from 16 to 0.04.
TEST_CASE("scaled frequencies are those of training, divided by the factor, or between them") {
  constexpr Index width = 64;
  const auto of = [](RotaryScaling scaling) {
    return kernels::Rotary{
        .width = width, .scaling = scaling, .base = 400, .factor = 4, .context = 100, .fast = 8, .slow = 1};
  };
  const kernels::Rotary plain{.width = width, .base = 400};
  const auto linear = of(RotaryScaling::linear), ntk = of(RotaryScaling::ntk), yarn = of(RotaryScaling::yarn),
             llama3 = of(RotaryScaling::llama3);
  for (Index i = 0; i < width / 2; ++i) {
    CAPTURE(i);
    const double f = plain.frequency(i);
    CHECK(linear.frequency(i) == f / 4);
    for (const kernels::Rotary* scaled : {&ntk, &yarn, &llama3}) {
      CHECK(scaled->frequency(i) <= f * (1 + 1e-15));
      CHECK(scaled->frequency(i) >= f / 4 * (1 - 1e-12));
      if (i > 0) CHECK(scaled->frequency(i) < scaled->frequency(i - 1));
    }
    const double rotations = 100 * f / (2 * std::numbers::pi);
    if (rotations >= 8) CHECK(llama3.frequency(i) == f);
    if (rotations <= 1) CHECK(llama3.frequency(i) == f / 4);
    CHECK(llama3.frequency(i) == Approx(f / 4 + (f - f / 4) * std::clamp((rotations - 1) / 7, 0.0, 1.0)));
  }
  CHECK(ntk.frequency(0) == 1);
  CHECK(ntk.frequency(width / 2 - 1) == Approx(plain.frequency(width / 2 - 1) / 4).epsilon(1e-12));
  // Pair i rotates 100 * 400^(-i/32) / 2 pi times: 8 times at i = 3.7, once at 14.8. The ends are whole
  // pairs.
  CHECK(yarn.frequency(3) == plain.frequency(3));
  CHECK(yarn.frequency(4) < plain.frequency(4));
  CHECK(yarn.frequency(14) > plain.frequency(14) / 4);
  CHECK(yarn.frequency(15) == plain.frequency(15) / 4);
  CHECK(yarn.frequency(9) == Approx(plain.frequency(9) * (0.5 + 0.5 / 4)).epsilon(1e-14));
  CHECK(yarn.length_factor() == Approx(0.1 * std::log(4.0) + 1));
  CHECK(linear.length_factor() == 1);
}

TEST_CASE("the magnitude of a rotation scales both products of backward") {
  const auto x = random_numbers<double>(d, 6), dy = random_numbers<double>(d, 7);
  const kernels::Rotary longer{.width = d, .base = 100, .magnitude = 1.5};
  const auto y = turned(x, 13, 1, longer);
  CHECK(dot(y, y) == Approx(1.5 * 1.5 * dot(x, x)).epsilon(1e-14));
  CHECK(dot(y, dy) == Approx(dot(x, turned(dy, 13, -1, longer))).epsilon(1e-14));
}
