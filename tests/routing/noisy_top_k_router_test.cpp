#include <moegpt/routing/noisy_top_k_router.hpp>
#include <moegpt/routing/top_k_router.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"
#include "support/rules.hpp"

using namespace moegpt;

namespace {

using Paper = NoisyTopKRouter<5, 2>::For<6, double>;
using MakeMoE = NoisyTopKRouter<5, 3, NoisyTopK{.bias = true, .noise_floor = true}>::For<6, double>;

template <class R>
struct Route {
  RoutingPlan<double> plan;
  typename R::Tape tape;
  Route(const R& router, In<6, double> x, const Pass& pass) { router.forward(x, plan, tape, pass); }
  double logit(Index n, int e) const { return std::log(tape.score[n][e]) + *tape.lse[n]; }
};

}  // namespace

TEST_CASE("the gradients of a noisy router agree with differences, with noise and without") {
  GradcheckOptions options;
  const Index lengths[2] = {5, 2};
  SECTION("no key: no noise") {}
  SECTION("noise") { options.pass.key = Key{4}; }
  SECTION("noise, padding and capacity") {
    options.pass.key = Key{5};
    options.pass.lengths = lengths;
    options.pass.options.capacity_factor = 0.75;
  }
  gradcheck_three_seeds<Paper>(options);
  gradcheck_three_seeds<MakeMoE>(options);
}

TEST_CASE("without a key a noisy router is a top-k router") {
  Paper noisy;
  TopKRouter<5, 2>::For<6, double> plain;
  draw_weights(noisy, 1);
  plain.logits = noisy.logits.gate;
  const auto x = random_tokens<6, double>(7, 2);
  const Route<Paper> a(noisy, x, {.shape = {1, 7}});
  const Route<decltype(plain)> b(plain, x, {.shape = {1, 7}});
  CHECK(same_bits(a.tape.score, b.tape.score));
  CHECK(same_bits(a.plan.slot, b.plan.slot));
  CHECK(same_bits(a.plan.gate, b.plan.gate));
}

TEST_CASE("noise is normal with standard deviation softplus(W x), plus 0.01 with the floor") {
  const Index tokens = 4000;
  Tokens<6, double> x(tokens);
  x.memory().fill(1);
  for (const double a : {-2.0, 0.0, 3.0}) {
    Paper without;
    without.logits.noise.weight.eigen().setConstant(a / 6);  // W x = a
    MakeMoE with;
    with.logits.noise.bias.eigen().setConstant(a);
    const Pass pass{.shape = {1, tokens}, .key = Key{3}};
    const Route<Paper> p(without, x, pass);
    const Route<MakeMoE> m(with, x, pass);
    double mean = 0, squares = 0, squares_floor = 0;
    for (Index n = 0; n < tokens; ++n)
      for (int e = 0; e < 5; ++e) {
        mean += p.logit(n, e);
        squares += p.logit(n, e) * p.logit(n, e);
        squares_floor += m.logit(n, e) * m.logit(n, e);
      }
    const double draws = 5.0 * tokens, deviation = std::log1p(std::exp(a));
    CHECK(mean / draws == Approx(0).margin(4 * deviation / std::sqrt(draws)));  // four standard errors
    CHECK(std::sqrt(squares / draws) == Approx(deviation).epsilon(4 / std::sqrt(2 * draws)));
    // the same normal values, with another standard deviation
    CHECK(std::sqrt(squares_floor / squares) == Approx((deviation + 0.01) / deviation).epsilon(1e-12));
  }
}

TEST_CASE("a token's noise depends on its global number: the same alone, among others and on any thread") {
  Paper router;
  draw_weights(router, 5);
  const auto x = random_tokens<6, double>(131, 6);
  Pass pass{.shape = {1, 131}, .exec = {3}, .key = Key{7}};
  const Route<Paper> all(router, x, pass);
  pass.shape = {1, 1};
  for (const Index n : {0, 64, 130}) {
    pass.first_token = n;
    const Route<Paper> alone(router, x.rows({n, 1}), pass);
    CHECK(same_bits(alone.tape.score[0], all.tape.score[n], 5));
  }
  pass.first_token = 0;
  const Route<Paper> elsewhere(router, x.rows({64, 1}), pass);
  CHECK_FALSE(same_bits(elsewhere.tape.score[0], all.tape.score[64], 5));
}

TEST_CASE("noisy top-k routing passes check_router, with a load loss too") {
  check_rule<NoisyTopKRouter<8, 3>>();
  check_rule<NoisyTopKRouter<5, 2, NoisyTopK{.bias = true, .noise_floor = true}>>(
      {.objective = {.load = 0.1}});
}

TEST_CASE("K = 1 with its constant gate compiles only inside AllowConstantGate") {
  STATIC_REQUIRE(Router<AllowConstantGate<NoisyTopKRouter<5, 1>>>);
}
