#include <moegpt/kernels/activations.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {
constexpr Activation all[] = {Activation::gelu, Activation::gelu_erf, Activation::relu, Activation::silu,
                              Activation::tanh};
double act(Activation a, double x) {
  double y = 0;
  kernels::activate(a, &x, &y, 1);
  return y;
}
}  // namespace

TEST_CASE("activations have the values of their published formulas") {
  // computed in double by Python's math.erf, math.tanh and math.exp
  CHECK(act(Activation::gelu, 1.5) == Approx(1.3995715769802328).epsilon(1e-14));
  CHECK(act(Activation::gelu, -0.7) == Approx(-0.16942986529488321).epsilon(1e-13));
  CHECK(act(Activation::gelu_erf, 1.5) == Approx(1.399789198096713).epsilon(1e-14));
  CHECK(act(Activation::gelu_erf, -0.7) == Approx(-0.1693745565561511).epsilon(1e-13));
  CHECK(act(Activation::silu, 1.5) == Approx(1.2263617142904655).epsilon(1e-14));
  CHECK(act(Activation::silu, -0.7) == Approx(-0.2322685594822837).epsilon(1e-14));
  CHECK(act(Activation::tanh, 0.5) == Approx(0.46211715726000974).epsilon(1e-14));
  CHECK(act(Activation::relu, 1.5) == 1.5);
  CHECK(act(Activation::relu, -0.7) == 0);
}

TEST_CASE("every activation is zero at zero, vanishes or saturates far left, and is finite everywhere") {
  for (const Activation a : all) {
    CHECK(act(a, 0) == 0);
    CHECK(act(a, -60) == Approx(a == Activation::tanh ? -1 : 0).margin(1e-20));
    CHECK(act(a, 60) == (a == Activation::tanh ? 1 : 60));
    for (const float x : {-1e4f, -100.f, 100.f, 1e4f}) {
      float slope = 0;
      const float one = 1;
      kernels::activate_backward(a, &x, &one, &slope, 1);
      CAPTURE(static_cast<int>(a), x);
      CHECK(std::isfinite(slope));
    }
  }
}

TEST_CASE("no activation turns a NaN into a number") {
  for (const Activation a : all) CHECK(std::isnan(act(a, std::numeric_limits<double>::quiet_NaN())));
}

TEST_CASE("slopes agree with differences, and relu's is 0 at 0") {
  const auto x = random_numbers<double>(40, 1, 2), dy = random_numbers<double>(40, 2);
  for (const Activation a : all) {
    Buffer<double> dx(40);
    kernels::activate_backward(a, x.data(), dy.data(), dx.data(), 40);
    for (Index i = 0; i < 40; ++i) {
      const double h = 1e-5;  // the difference is off by about h^2 + 1e-16 / h
      CAPTURE(static_cast<int>(a), x[i]);
      CHECK(dx[i] == Approx(dy[i] * (act(a, x[i] + h) - act(a, x[i] - h)) / (2 * h)).margin(1e-9));
    }
  }
  const double zero = 0, one = 1;
  double slope = 1;
  kernels::activate_backward(Activation::relu, &zero, &one, &slope, 1);
  CHECK(slope == 0);
}

TEST_CASE("a gated activation is act(gate) up, and its two derivatives agree with differences") {
  for (const Activation a : all) {
    const double gate = 0.8, up = -1.3, dy = 0.7, h = 1e-5;
    auto value = [&](double g, double u) {
      double y = 0;
      kernels::activate_gated(a, &g, &u, &y, 1);
      return y;
    };
    CHECK(value(gate, up) == Approx(act(a, gate) * up).epsilon(1e-15));
    double d_gate = 0, d_up = 0;
    kernels::activate_gated_backward(a, &gate, &up, &dy, &d_gate, &d_up, 1);
    CHECK(d_gate == Approx(dy * (value(gate + h, up) - value(gate - h, up)) / (2 * h)).margin(1e-9));
    CHECK(d_up == Approx(dy * act(a, gate)).epsilon(1e-15));
  }
}

TEST_CASE("each activation has its enumerator's name") {
  CHECK(to_text(Activation::gelu) == "gelu");
  CHECK(to_text(Activation::gelu_erf) == "gelu_erf");
  CHECK(to_text(Activation::relu) == "relu");
  CHECK(to_text(Activation::silu) == "silu");
  CHECK(to_text(Activation::tanh) == "tanh");
}
