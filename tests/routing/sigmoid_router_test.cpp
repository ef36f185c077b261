#include <moegpt/routing/sigmoid_router.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/rules.hpp"

using namespace moegpt;

namespace {

constexpr Sigmoid plain{.normalise = false, .selection_bias = false}, grouped{.groups = 4, .groups_kept = 2};
constexpr Sigmoid raw{.normalise = false}, root{.root_softplus = true};
constexpr Sigmoid root_raw{.normalise = false, .root_softplus = true};
using FiveHalves = std::ratio<5, 2>;
template <class Recipe>
using Double = typename Recipe::template For<6, double>;

}  // namespace

TEST_CASE("the gradients of a sigmoid router agree with differences for K = 1, 2, 3 and E = 5, 6, 8") {
  SECTION("K = 1") { gradcheck_three_seeds<Double<SigmoidRouter<5, 1>>>(); }
  SECTION("K = 2, groups, scaled") {
    gradcheck_three_seeds<Double<SigmoidRouter<8, 2, grouped, FiveHalves>>>();
  }
  SECTION("K = 3") { gradcheck_three_seeds<Double<SigmoidRouter<6, 3>>>(); }
  SECTION("K = 3, not normalised, scaled") {
    gradcheck_three_seeds<Double<SigmoidRouter<6, 3, raw, FiveHalves>>>();
  }
  SECTION("K = 2, no bias") { gradcheck_three_seeds<Double<SigmoidRouter<5, 2, plain>>>(); }
  SECTION("K = 2, root of softplus") { gradcheck_three_seeds<Double<SigmoidRouter<6, 2, root>>>(); }
  SECTION("K = 1, root of softplus") { gradcheck_three_seeds<Double<SigmoidRouter<5, 1, root_raw>>>(); }
}

TEST_CASE(
    "the gradients of a sigmoid router agree with differences with padding, capacity and experts that are "
    "not allowed") {
  const Index lengths[2] = {5, 2};
  const bool four[8] = {true, false, true, true, false, false, true, false}, one[8] = {false, false, true};
  GradcheckOptions options;
  SECTION("padding") { options.pass.lengths = lengths; }
  SECTION("capacity of one: experts with one token") { options.pass.options.capacity_factor = 0.4; }
  SECTION("idle experts") { options.routing.allowed = four; }
  SECTION("fewer allowed than K") { options.routing.allowed = one; }
  gradcheck_three_seeds<Double<SigmoidRouter<8, 2, grouped, FiveHalves>>>(options);
}

TEST_CASE("sigmoid routing passes check_router") {
  check_rule<SigmoidRouter<8, 3>>();
  check_rule<SigmoidRouter<8, 3, grouped, FiveHalves>>();
  check_rule<SigmoidRouter<5, 2, root>>();
  check_equal_experts<SigmoidRouter<5, 2>>();
}

TEST_CASE("gates are scaled sigmoids of the selected experts, normalised or not") {
  const Pass pass{.shape = {1, 9}};
  const RandomRoute<SigmoidRouter<6, 3, Sigmoid{}, FiveHalves>> route(pass);
  const RandomRoute<SigmoidRouter<6, 3, raw, FiveHalves>> unscaled(pass);
  for (Index n = 0; n < 9; ++n) {
    const auto gate = route.gates(n), loose = unscaled.gates(n);
    double total = 0, chosen = 0;
    for (int e = 0; e < 6; ++e) {
      const double s = 1 / (1 + std::exp(-route.tape.logits[n][e]));
      total += gate[e];
      if (gate[e] > 0) chosen += s;
      CHECK((gate[e] > 0) == (loose[e] > 0));
      if (gate[e] > 0) CHECK(loose[e] == Approx(2.5 * s).epsilon(1e-13));
    }
    CHECK(total == Approx(2.5).epsilon(1e-13));
    for (int e = 0; e < 6; ++e)
      if (gate[e] > 0) CHECK(gate[e] == Approx(loose[e] / chosen).epsilon(1e-13));
  }
}

TEST_CASE("a selection bias of zero is no bias, and any bias changes the selection but no gate's value") {
  const Pass pass{.shape = {1, 40}};
  RandomRoute<SigmoidRouter<6, 2, raw>> biased(pass);
  const RandomRoute<SigmoidRouter<6, 2, plain>> unbiased(pass);
  int moved = 0;
  for (Index n = 0; n < 40; ++n)
    for (int e = 0; e < 6; ++e) {
      const double gate = biased.gates(n)[e];
      moved += (gate > 0) != (unbiased.gates(n)[e] > 0);
      if (gate > 0) CHECK(gate == Approx(1 / (1 + std::exp(-biased.tape.logits[n][e]))).epsilon(1e-13));
    }
  CHECK(moved > 0);
  biased.router.selection_bias.memory().fill(0);
  biased.forward(pass);
  for (Index n = 0; n < 40; ++n) CHECK(biased.gates(n) == unbiased.gates(n));
}

TEST_CASE("one group, or all groups retained, has the bits of no groups") {
  const Pass pass{.shape = {1, 40}};
  const RandomRoute<SigmoidRouter<8, 3>> none(pass);
  const RandomRoute<SigmoidRouter<8, 3, Sigmoid{.groups = 4, .groups_kept = 4}>> all(pass);
  const RandomRoute<SigmoidRouter<8, 3, Sigmoid{.groups = 2, .groups_kept = 1}>> half(pass);
  for (Index n = 0; n < 40; ++n) {
    CHECK(none.gates(n) == all.gates(n));
    const auto gate = half.gates(n);
    CHECK((gate[0] + gate[1] + gate[2] + gate[3] == 0) != (gate[4] + gate[5] + gate[6] + gate[7] == 0));
  }
}

TEST_CASE(
    "at K = 1 sigmoids that are not normalised train the router, and the constant gate compiles only inside "
    "AllowConstantGate") {
  STATIC_REQUIRE(std::is_same_v<SigmoidRouter<5, 1>, SigmoidRouter<5, 1, raw>>);
  STATIC_REQUIRE(Router<AllowConstantGate<SigmoidRouter<5, 1, Sigmoid{}>>>);
  const Pass pass{.shape = {1, 9}};
  const RandomRoute<SigmoidRouter<5, 1>> loose(pass);
  const RandomRoute<AllowConstantGate<SigmoidRouter<5, 1, Sigmoid{}>>> constant(pass);
  const auto gradient = [&](const auto& route) {
    typename std::remove_cvref_t<decltype(route)>::R grad;
    typename std::remove_cvref_t<decltype(route)>::R::Scratch scratch;
    const auto d_gate = random_numbers<double>(9, 3);
    Tokens<6, double> dx(9);
    route.router.backward(route.x, route.plan, route.tape, {.d_gate = d_gate.data()}, Sum(dx), grad, scratch,
                          pass);
    double largest = 0;
    for (const double g : grad.logits.weight) largest = std::max(largest, std::abs(g));
    return largest;
  };
  CHECK(gradient(loose) > 1e-3);
  CHECK(gradient(constant) < 1e-15);
  for (Index s = 0; s < 9; ++s) CHECK(constant.plan.gate[s] == 1);
}

TEST_CASE("the text of a sigmoid router is the type one writes") {
  CHECK(SigmoidRouter<8, 2>::text() == "SigmoidRouter<8, 2>");
  CHECK(
      SigmoidRouter<8, 2, grouped, FiveHalves>::text() ==
      "SigmoidRouter<8, 2, Sigmoid{.normalise = true, .selection_bias = true, .groups = 4, .groups_kept = 2, "
      ".root_softplus = false}, std::ratio<5, 2>>");
}
