#include <moegpt/routing/top_k_router.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/rules.hpp"

using namespace moegpt;

namespace {

constexpr TopK renormalised{.gates = Gates::renormalised}, probability{.gates = Gates::probability};
constexpr TopK renormalised_bias{.gates = Gates::renormalised, .bias = true};
constexpr TopK probability_bias{.gates = Gates::probability, .bias = true};
template <int K, TopK Options>
using RouterD = typename TopKRouter<5, K, Options>::template For<6, double>;
using Two = RouterD<2, renormalised_bias>;

template <class R>
struct Route {
  using T = typename R::Scalar;
  RoutingPlan<T> plan;
  typename R::Tape tape;
  Route(const R& router, TokensView<R::dim, const T> x, const Pass& pass) {
    router.forward(x, plan, tape, pass);
  }
};

// The gradient of a router's weights for random gradients of its gates only.
template <class R>
double gradient_of_gates() {
  R router, grad;
  draw_weights(router, 1);
  const auto x = random_tokens<6, double>(7, 2);
  const Pass pass{.shape = {1, 7}};
  const Route<R> route(router, x, pass);
  const auto d_gate = random_numbers<double>(route.plan.slot_count(), 3);
  typename R::Scratch scratch;
  Tokens<6, double> dx(7);
  router.backward(x, route.plan, route.tape, {.d_gate = d_gate.data()}, Sum(dx), grad, scratch, pass);
  double largest = 0;
  for (const double g : grad.logits.weight) largest = std::max(largest, std::abs(g));
  return largest;
}

}  // namespace

TEST_CASE(
    "the gradients of a top-k router agree with differences for K = 1, 2, 3, both gates, with a bias or "
    "not") {
  SECTION("1 probability") { gradcheck_three_seeds<RouterD<1, probability>>(); }
  SECTION("1 constant gate: only balance and z-loss") {
    gradcheck_three_seeds<AllowConstantGate<TopKRouter<5, 1, renormalised>>::For<6, double>>();
  }
  SECTION("2 renormalised, bias") { gradcheck_three_seeds<Two>(); }
  SECTION("2 probability") { gradcheck_three_seeds<RouterD<2, probability>>(); }
  SECTION("3 renormalised") { gradcheck_three_seeds<RouterD<3, renormalised>>(); }
  SECTION("3 probability, bias") { gradcheck_three_seeds<RouterD<3, probability_bias>>(); }
}

TEST_CASE(
    "the gradients of a top-k router agree with differences with padding, capacity and experts that are not "
    "allowed") {
  const Index lengths[2] = {5, 2};
  const bool three[5] = {true, false, true, true, false}, one[5] = {false, false, false, true, false};
  GradcheckOptions options;
  SECTION("padding") { options.pass.lengths = lengths; }
  SECTION("capacity") { options.pass.options.capacity_factor = 0.75; }
  SECTION("three allowed") { options.routing.allowed = three; }
  SECTION("fewer allowed than K") { options.routing.allowed = one; }
  gradcheck_three_seeds<Two>(options);
  gradcheck_three_seeds<RouterD<3, probability_bias>>(options);
}

TEST_CASE("a router of zeros selects the lowest experts with equal gates") {
  const Two router;
  const auto x = random_tokens<6, double>(7, 4);
  const Route<Two> route(router, x, {.shape = {1, 7}});
  CHECK(route.plan.load(0) == 7);
  CHECK(route.plan.load(1) == 7);
  for (Index s = 0; s < 14; ++s) CHECK(route.plan.gate[s] == 0.5);
}

TEST_CASE("at K = 1 probability gates train the router, and the constant gate does not") {
  CHECK(gradient_of_gates<RouterD<1, probability>>() > 1e-3);
  CHECK(gradient_of_gates<AllowConstantGate<TopKRouter<5, 1, renormalised>>::For<6, double>>() == 0);
}

TEST_CASE("the default gates are probabilities at K = 1 and renormalised above") {
  STATIC_REQUIRE(std::is_same_v<TopKRouter<5, 1>, TopKRouter<5, 1, probability>>);
  STATIC_REQUIRE(std::is_same_v<TopKRouter<5, 2>, TopKRouter<5, 2, renormalised>>);
  STATIC_REQUIRE(Router<AllowConstantGate<TopKRouter<5, 1, renormalised>>>);
}

TEST_CASE("a token's route does not depend on other tokens, before or after it, bit for bit") {
  Two router;
  draw_weights(router, 5);
  auto x = random_tokens<6, double>(131, 6);
  const Route<Two> all(router, x, {.shape = {1, 131}, .exec = {3}});
  for (const Index n : {0, 63, 64, 130}) {
    const Route<Two> alone(router, std::as_const(x).rows({n, 1}), {});
    CHECK(same_bits(alone.tape.gate.data(), all.tape.gate.data() + 2 * n, 2));
    CHECK(same_bits(alone.tape.score[0], all.tape.score[n], 5));
    CHECK(alone.tape.chosen[0] == all.tape.chosen[2 * n]);
    CHECK(alone.tape.chosen[1] == all.tape.chosen[2 * n + 1]);
  }
}

TEST_CASE("with a capacity too, a later token changes no earlier token's route") {
  Two router;
  draw_weights(router, 7);
  auto x = random_tokens<6, double>(20, 8);
  const Pass pass{.shape = {1, 20}, .options = {.capacity_factor = 0.8}};
  const Route<Two> before(router, x, pass);
  CHECK(before.plan.dropped() > 0);
  for (Index changed = 1; changed < 20; ++changed) {
    auto other = x;
    for (int i = 0; i < 6; ++i) other[changed][i] = -3 * x[changed][i] + 1;
    const Route<Two> after(router, other, pass);
    for (Index pair = 0; pair < 2 * changed; ++pair)
      CHECK((before.plan.slot[pair] != no_slot) == (after.plan.slot[pair] != no_slot));
  }
}

TEST_CASE("a frozen router still has a gradient of x") {
  Two router, grad, frozen;
  draw_weights(router, 9);
  for_each_weight([](auto& w) { w.release(); }, frozen);
  const auto x = random_tokens<6, double>(7, 10);
  const Pass pass{.shape = {1, 7}};
  const Route<Two> route(router, x, pass);
  const auto d_gate = random_numbers<double>(14, 11);
  Two::Scratch scratch;
  Tokens<6, double> dx(7), dx_frozen(7);
  router.backward(x, route.plan, route.tape, {.d_gate = d_gate.data()}, Sum(dx), grad, scratch, pass);
  router.backward(x, route.plan, route.tape, {.d_gate = d_gate.data()}, Sum(dx_frozen), frozen, scratch,
                  pass);
  CHECK(same_bits(dx, dx_frozen));
  CHECK(count_weights(frozen) == 0);
}

TEST_CASE("gates of 1-norm one are renormalised gates, in values and gradients") {
  const Pass pass{.shape = {1, 30}};
  const RandomRoute<TopKRouterWith<6, 3, PNormGates<1>>> by_norm(pass);
  const RandomRoute<TopKRouter<6, 3>> by_softmax(pass);
  const auto d_gate = random_numbers<double>(90, 3);
  const auto gradient = [&](const auto& route) {
    auto grad = std::make_unique<typename std::remove_cvref_t<decltype(route)>::R>();
    typename std::remove_cvref_t<decltype(route)>::R::Scratch scratch;
    Tokens<6, double> dx(30);
    route.router.backward(route.x, route.plan, route.tape, {.d_gate = d_gate.data()}, Sum(dx), *grad, scratch,
                          pass);
    Tokens<6, double> both(36);
    std::copy_n(dx[0], 180, both[0]);
    std::copy_n(grad->logits.weight.data(), 36, both[30]);
    return both;
  };
  CHECK(distance(by_norm.plan.gate.data(), by_softmax.plan.gate.data(), 90) < 1e-15);
  CHECK(distance(gradient(by_norm), gradient(by_softmax)) < 1e-14);
}

TEST_CASE("the gradients of p-norm gates and of a biased selection agree with differences") {
  SECTION("1-norm, E = 5") { gradcheck_three_seeds<TopKRouterWith<5, 2, PNormGates<1>>::For<6, double>>(); }
  SECTION("2-norm, E = 6") { gradcheck_three_seeds<TopKRouterWith<6, 2, PNormGates<2>>::For<6, double>>(); }
  SECTION("3-norm, E = 8") {
    gradcheck_three_seeds<TopKRouterWith<8, 3, PNormGates<3>, true>::For<6, double>>();
  }
  SECTION("bias, K = 1") {
    gradcheck_three_seeds<RouterD<1, TopK{.gates = Gates::probability, .selection_bias = true}>>();
  }
  SECTION("bias, K = 2") { gradcheck_three_seeds<RouterD<2, TopK{.selection_bias = true}>>(); }
}

TEST_CASE("a selection bias of zero is no bias, and any bias changes the selection but no probability") {
  constexpr TopK biased_probability{.gates = Gates::probability, .selection_bias = true};
  const Pass pass{.shape = {1, 60}};
  RandomRoute<TopKRouter<6, 2, biased_probability>> biased(pass);
  const RandomRoute<TopKRouter<6, 2, probability>> plain(pass);
  CHECK(same_bits(biased.tape.score, plain.tape.score));
  int moved = 0;
  for (Index n = 0; n < 60; ++n)
    for (int e = 0; e < 6; ++e) {
      const double gate = biased.gates(n)[e];
      moved += (gate > 0) != (plain.gates(n)[e] > 0);
      if (gate > 0) CHECK(gate == plain.tape.score[n][e]);
    }
  CHECK(moved > 10);
  biased.router.selection_bias.memory().fill(0);
  biased.forward(pass);
  for (Index n = 0; n < 60; ++n) CHECK(biased.gates(n) == plain.gates(n));
}

TEST_CASE("top-k routing passes check_router") {
  check_rule<TopKRouter<8, 3>>();
  check_rule<TopKRouter<8, 3, TopK{.selection_bias = true}>>();
  check_rule<TopKRouterWith<5, 2, PNormGates<2>>>();
}

TEST_CASE("the text of a top-k router is the type one writes") {
  CHECK(TopKRouter<8, 2>::text() == "TopKRouter<8, 2>");
  CHECK(TopKRouter<8, 2, TopK{.selection_bias = true}>::text() ==
        "TopKRouter<8, 2, TopK{.gates = Gates::renormalised, .selection_bias = true}>");
  CHECK(TopKRouterWith<8, 2, PNormGates<2>>::text() == "TopKRouterWith<8, 2, PNormGates<2>>");
}
