#include <moegpt/routing/load.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"
#include "support/routed_pass.hpp"

#include <numeric>

using namespace moegpt;

namespace {

template <int E, int K, NoisyTopK Options = NoisyTopK{}>
using Noisy = typename std::conditional_t<K == 1, AllowConstantGate<NoisyTopKRouter<E, K, Options>>,
                                          NoisyTopKRouter<E, K, Options>>::template For<4, double>;

RoutedPass with_load(Index tokens) {
  return {{.shape = {1, tokens}, .key = Key{3}}, {.objective = {.load = 1}}};
}

template <class R>
struct Route {
  R router;
  Tokens<4, double> x;
  RoutingPlan<double> plan;
  typename R::Tape tape;
  explicit Route(const Pass& pass, double spread = 0.5) : x(random_tokens<4, double>(pass.tokens(), 2)) {
    draw_weights(router, 1, spread);
    forward(pass);
  }
  void forward(const Pass& pass) { router.forward(x, plan, tape, pass); }
  double load() const { return std::accumulate(tape.load.begin(), tape.load.end(), 0.0); }
  bool is_hard() const {
    for (int e = 0; e < plan.experts; ++e)
      if (tape.load[e] != static_cast<double>(plan.wanted[e])) return false;
    return true;
  }
};

}  // namespace

TEST_CASE("the selection probability of an expert is over its own noise, computed by hand") {
  const double clean[4] = {1, 0, 0.5, -1}, noisy[4] = {2, 0.25, 0.5, -0.5}, deviation[4] = {1, 2, 0.5, 1};
  int order[3];
  SelectionProbability<double> token{clean, noisy, deviation, 4, 2, order};  // selected: 0, 2; next: 1
  token.rank();
  double chance[4];
  token.forward(chance);
  const auto phi = [](double u) { return 0.5 * (1 + std::erf(u / std::sqrt(2.0))); };
  CHECK(chance[0] == Approx(phi((1 - 0.25) / 1)).epsilon(1e-14));
  CHECK(chance[2] == Approx(phi((0.5 - 0.25) / 0.5)).epsilon(1e-14));
  CHECK(chance[1] == Approx(phi((0 - 0.5) / 2)).epsilon(1e-14));
  CHECK(chance[3] == Approx(phi((-1 - 0.5) / 1)).epsilon(1e-14));
}

TEST_CASE("the gradients of a noisy router with an expected load agree with differences") {
  GradcheckOptions options;
  const Index lengths[2] = {5, 2};
  const bool allowed[8] = {true, true, false, true, true, true, true, true};
  options.routing.objective.load = 1;
  options.pass.key = Key{5};
  SECTION("as it is") {}
  SECTION("padding and capacity") {
    options.pass.lengths = lengths;
    options.pass.options.capacity_factor = 0.75;
  }
  SECTION("an idle expert") { options.routing.allowed = allowed; }
  SECTION("no noise") { options.pass.key.reset(); }
  gradcheck_three_seeds<Noisy<5, 1>>(options);
  gradcheck_three_seeds<Noisy<6, 2, NoisyTopK{.bias = true}>>(options);
  gradcheck_three_seeds<Noisy<8, 3, NoisyTopK{.noise_floor = true}>>(options);
  gradcheck_three_seeds<Noisy<3, 3>>(options);
}

TEST_CASE("with constant thresholds the gradient differs from that of differences") {
  GradcheckOptions options;
  options.routing.objective.load = 1;
  options.pass.key = Key{5};
  CHECK_FALSE(gradcheck<Noisy<6, 2, NoisyTopK{.detached_threshold = true}>>(options).ok);
  options.routing.objective.load = 0;
  CHECK(gradcheck<Noisy<6, 2, NoisyTopK{.detached_threshold = true}>>(options).ok);
}

TEST_CASE("loads sum to about N K, and each is about the expert's count") {
  const Index tokens = 4000;
  const Route<Noisy<6, 2>> run(with_load(tokens));
  CHECK_FALSE(run.is_hard());
  // selected - probability has mean zero, and at most the variance 1/4 for each token
  const double four_errors = 4 * std::sqrt(0.25 * static_cast<double>(tokens));
  for (int e = 0; e < 6; ++e)
    CHECK(run.tape.load[e] == Approx(static_cast<double>(run.plan.wanted[e])).margin(four_errors));
  double squares = 0;  // of sum of P - K, per token
  for (Index n = 0; n < tokens; ++n) {
    double sum = -2;
    for (int e = 0; e < 6; ++e) sum += run.tape.layer.probability[n][e];
    squares += sum * sum;
  }
  CHECK(run.load() == Approx(2.0 * static_cast<double>(tokens)).margin(4 * std::sqrt(squares)));
}

TEST_CASE("without noise, with K = E or without a load loss, loads are requested pairs") {
  RoutedPass pass = with_load(20);
  pass.options.capacity_factor = 0.5;
  CHECK(Route<Noisy<3, 3>>(pass).is_hard());
  CHECK_FALSE(Route<Noisy<5, 2>>(pass).is_hard());
  pass.context.objective.load = 0;
  CHECK(Route<Noisy<5, 2>>(pass).is_hard());
  pass.context.objective.load = 1;
  pass.key.reset();
  CHECK(Route<Noisy<5, 2>>(pass).is_hard());
}

TEST_CASE("padding has no load, and neither has an expert that is not allowed") {
  const bool allowed[5] = {true, false, true, true, true}, two[5] = {true, false, false, true, false};
  const Index lengths[1] = {7};
  RoutedPass pass = with_load(20);
  pass.context.allowed = allowed;
  pass.lengths = lengths;
  Route<Noisy<5, 2>> run(pass);
  CHECK(run.tape.load[1] == 0);
  CHECK(run.load() > 0);
  CHECK(run.load() < 7 * 4);
  pass.context.allowed = two;  // K allowed experts: P = 1
  run.forward(pass);
  CHECK(run.tape.load[0] == 7);
  CHECK(run.tape.load[3] == 7);
}

TEST_CASE(
    "noise too small to change any selection gives the counts and a finite gradient, not a division by "
    "zero") {
  using R = Noisy<5, 2, NoisyTopK{.bias = true}>;
  const RoutedPass pass = with_load(20);
  Route<R> run(pass);
  for (const double bias : {-40.0, -50.0, -800.0}) {  // deviations of 4e-18, 2e-22 and 0
    run.router.logits.noise.weight.eigen().setZero();
    run.router.logits.noise.bias.eigen().setConstant(bias);
    run.forward(pass);
    CHECK(run.is_hard());
    R grad;
    R::Scratch scratch;
    Tokens<4, double> dx(20);
    const Buffer<double> d_slot = random_numbers<double>(run.plan.slot_count(), 3),
                         d_load = random_numbers<double>(5, 4);
    run.router.backward(run.x, run.plan, run.tape, {.d_gate = d_slot.data(), .d_load = d_load.data()},
                        Sum(dx), grad, scratch, pass);
    CHECK(first_not_finite(grad) == "");
  }
}

TEST_CASE("an expected load has the same bits on one thread and on three") {
  RoutedPass pass = with_load(200);
  const Route<Noisy<6, 2>> one(pass);
  pass.exec.threads = 3;
  const Route<Noisy<6, 2>> three(pass);
  CHECK(same_bits(one.tape.load, three.tape.load));
}

TEST_CASE("the text of a noisy router has its options") {
  CHECK(NoisyTopKRouter<4, 2, NoisyTopK{.bias = true, .detached_threshold = true}>::text() ==
        "NoisyTopKRouter<4, 2, NoisyTopK{.bias = true, .detached_threshold = true}>");
  CHECK(AllowConstantGate<NoisyTopKRouter<4, 1, NoisyTopK{.detached_threshold = true}>>::text() ==
        "AllowConstantGate<NoisyTopKRouter<4, 1, NoisyTopK{.detached_threshold = true}>>");
}
