#include <moegpt/core/random.hpp>

#include "support/catch.hpp"

#include <set>
#include <vector>

using namespace moegpt;

TEST_CASE(
    "a key is SplitMix64: counter i of key s is the i-th number of the reference generator seeded with s") {
  // reference: https://prng.di.unimi.it/splitmix64.c
  const Key zero{0};
  CHECK(zero.bits(0) == 0xe220a8397b1dcdafu);
  CHECK(zero.bits(1) == 0x6e789e6aa1b965f4u);
  CHECK(zero.bits(2) == 0x06c45d188009454fu);
  CHECK(zero.bits(3) == 0xf88bb8a8724c81ecu);
  const std::vector<std::uint64_t> expected{6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                                            4593380528125082431u, 16408922859458223821u};
  for (std::uint64_t i = 0; i < 5; ++i) CHECK(Key{1234567}.bits(i) == expected[i]);
}

TEST_CASE("derived keys are integers that agree on every platform") {
  // computed from the formulas with Python's integers
  CHECK(Key{1}.with(Purpose::router_noise).value == 0xcde286865f7c5405u);
  CHECK(Key{1}.with(Purpose::layer, 3).value == 0x725997fb1205c69bu);
  CHECK(Rng(42).bits() == 0x989b3f130a063869u);
}

TEST_CASE("different purposes and numbers give different streams") {
  std::set<std::uint64_t> values{Key{7}.value};
  for (std::uint64_t purpose = 1; purpose <= static_cast<std::uint64_t>(Purpose::check); ++purpose)
    for (std::uint64_t number = 0; number < 20; ++number)
      values.insert(Key{7}.with(static_cast<Purpose>(purpose), number).value);
  CHECK(values.size() == 1 + 20 * static_cast<std::size_t>(Purpose::check));
}

TEST_CASE("an Rng draws its key's numbers in sequence, and key and counter are its whole state") {
  Rng rng(5);
  const Key key = rng.key;
  CHECK(rng.bits() == key.bits(0));
  CHECK(rng.uniform() == key.uniform(1));
  CHECK(rng.normal() == key.normal(2));
  Rng resumed{rng.key};
  resumed.counter = rng.counter;
  CHECK(resumed.bits() == rng.bits());
  double three[3];
  rng.normals(three, 3);
  for (const double x : three) CHECK(x == resumed.normal());
  CHECK(rng.counter == resumed.counter);
}

TEST_CASE("uniforms lie between 0 and 1 and have the moments of the uniform distribution") {
  const Key key{11};
  const int n = 100000;
  double sum = 0, squares = 0, product = 0, before = 0.5;
  for (int i = 0; i < n; ++i) {
    const double u = key.uniform(static_cast<std::uint64_t>(i));
    REQUIRE((u >= 0 && u < 1));
    sum += u;
    squares += u * u;
    product += (u - 0.5) * (before - 0.5);
    before = u;
  }
  // four standard errors: sd(u) = 0.289, sd(u^2) = 0.298, sd(u u') = 1/12, each over sqrt(n)
  CHECK(sum / n == Approx(0.5).margin(4 * 0.289 / std::sqrt(n)));
  CHECK(squares / n == Approx(1.0 / 3).margin(4 * 0.298 / std::sqrt(n)));
  CHECK(product / n == Approx(0).margin(4 / 12.0 / std::sqrt(n)));
}

TEST_CASE("normals have mean 0, variance 1, no skew and kurtosis 3") {
  const Key key{12};
  const int n = 100000;
  double moment[5] = {};
  for (int i = 0; i < n; ++i) {
    const double x = key.normal(static_cast<std::uint64_t>(i));
    for (int k = 1; k <= 4; ++k) moment[k] += std::pow(x, k) / n;
  }
  // four standard errors: the variances of x, x^2, x^3, x^4 are 1, 2, 15, 96
  const double root = std::sqrt(double(n));
  CHECK(moment[1] == Approx(0).margin(4 / root));
  CHECK(moment[2] == Approx(1).margin(4 * std::sqrt(2.0) / root));
  CHECK(moment[3] == Approx(0).margin(4 * std::sqrt(15.0) / root));
  CHECK(moment[4] == Approx(3).margin(4 * std::sqrt(96.0) / root));
}

TEST_CASE("whole vectors draw what single counters draw") {
  const Key key{13};
  const std::uint64_t first = 0xfffffffffffffffcu;  // the counter wraps
  const auto bits = key.bits(lane_numbers<std::uint64_t>() + first);
  for (int l = 0; l < lanes<std::uint64_t>; ++l)
    CHECK(bits[l] == key.bits(first + static_cast<std::uint64_t>(l)));
  float x[38];
  for (const Index n : {0, 1, 37}) {
    x[n] = 5;
    key.normals(100, x, n);
    for (Index i = 0; i < n; ++i)
      CHECK(x[i] == static_cast<float>(key.normal(100 + static_cast<std::uint64_t>(i))));
    CHECK(x[n] == 5);
  }
}

TEST_CASE("a normal is Box and Muller's function of its counter's bits") {
  const Key key{14};
  double worst = 0;
  for (std::uint64_t i = 0; i < 20000; ++i) {
    const std::uint64_t b = key.bits(i);
    const double u = (static_cast<double>(b >> 32) + 0.5) * 0x1.0p-32;
    const double angle = 6.283185307179586 * static_cast<double>(b & 0xffffffffu) * 0x1.0p-32;
    worst = std::max(worst, std::abs(key.normal(i) - std::sqrt(-2 * std::log(u)) * std::cos(angle)));
  }
  CHECK(worst < 1e-14);  // an angle near 2 pi is itself rounded by 4e-16, times a radius of at most 6.8
}

TEST_CASE("below(n) reaches every number below n about equally often and none other") {
  Rng rng(3);
  std::vector<int> count(7);
  for (int i = 0; i < 70000; ++i) ++count.at(rng.below(7));
  for (const int c : count) CHECK(c == Approx(10000).margin(4 * 100));  // four standard errors
  CHECK(rng.below(1) == 0);
}

TEST_CASE("no number is below zero, and a negative count of normals is rejected without moving the counter") {
  Rng rng(1);
  double x = 0;
  CHECK_THROWS_WITH(rng.below(0), ContainsSubstring("no number is below 0"));
  CHECK_THROWS_WITH(rng.normals(&x, -1), ContainsSubstring("-1 numbers"));
  CHECK(rng.counter == 0);
  CHECK(rng.below(1) == 0);
}
