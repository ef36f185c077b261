#include <moegpt/routing/gates.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <numeric>

using namespace moegpt;

namespace {

constexpr int K = 3;

// Gates of three selected experts, and their gradient by logits and scores.
template <class Rule>
struct Chosen {
  double z[K] = {0.7, -0.2, -1.1}, s[K] = {0.5, 0.2, 0.1}, gate[K], dz[K] = {}, ds[K] = {};
  double d_gate[K] = {0.3, -1, 2};
  Chosen() { forward(); }
  void forward() { Rule::forward(z, s, gate, K); }
  double value() const { return std::inner_product(gate, gate + K, d_gate, 0.0); }
};

template <class Rule>
void check_derivative() {
  Chosen<Rule> c;
  Rule::backward(c.s, c.gate, c.d_gate, c.dz, c.ds, K);
  const auto check = [&](double* x, const double* dx) {
    for (int j = 0; j < K; ++j) {
      const double at = x[j], h = 1e-5;
      x[j] = at + h;
      c.forward();
      const double above = c.value();
      x[j] = at - h;
      c.forward();
      CHECK(dx[j] == Approx((above - c.value()) / (2 * h)).epsilon(1e-8).margin(1e-10));
      x[j] = at;
    }
  };
  check(c.z, c.dz);
  check(c.s, c.ds);
}

}  // namespace

TEST_CASE("the gradients of all gates agree with differences") {
  SECTION("renormalised") { check_derivative<RenormalisedGates>(); }
  SECTION("probability") { check_derivative<ProbabilityGates>(); }
  SECTION("scaled") { check_derivative<ScoreGates<std::ratio<5, 2>>>(); }
  SECTION("1-norm") { check_derivative<PNormGates<1>>(); }
  SECTION("2-norm") { check_derivative<PNormGates<2>>(); }
  SECTION("3-norm, scaled") { check_derivative<PNormGates<3, std::ratio<5, 2>>>(); }
}

TEST_CASE("gates divided by their p-norm have p-norm one, scaled ones the scale") {
  const Chosen<PNormGates<1>> one;
  const Chosen<PNormGates<2>> two;
  const Chosen<PNormGates<3, std::ratio<5, 2>>> three;
  double sum = 0, squares = 0, cubes = 0;
  for (int j = 0; j < K; ++j) {
    sum += one.gate[j];
    squares += two.gate[j] * two.gate[j];
    cubes += std::pow(three.gate[j], 3);
    CHECK(two.gate[j] / two.gate[0] == Approx(two.s[j] / two.s[0]).epsilon(1e-14));
  }
  CHECK(sum == Approx(1).epsilon(1e-14));
  CHECK(squares == Approx(1).epsilon(1e-14));
  CHECK(std::cbrt(cubes) == Approx(2.5).epsilon(1e-14));
}

TEST_CASE("scores that are all zero have gates and gradients of zero, and NaN propagates") {
  double s[K] = {}, gate[K], d_gate[K] = {1, 2, 3}, dz[K] = {}, ds[K] = {};
  PNormGates<1>::forward(s, s, gate, K);
  PNormGates<1>::backward(s, gate, d_gate, dz, ds, K);
  for (int j = 0; j < K; ++j) CHECK((gate[j] == 0 && ds[j] == 0));
  s[1] = std::numeric_limits<double>::quiet_NaN();
  PNormGates<1>::forward(s, s, gate, K);
  CHECK(std::isnan(gate[1]));
}
