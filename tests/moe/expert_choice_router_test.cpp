#include <moegpt/moe/expert_choice_router.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"

#include <vector>

using namespace moegpt;

namespace {

using R = ExpertChoiceRouter<5, 2>::For<6, double>;
struct Route {
  RoutingPlan<double> plan;
  R::Tape tape;
  Route(const R& router, In<6, double> x, const Pass& pass) { router.forward(x, plan, tape, pass); }
};

}  // namespace

TEST_CASE("the gradients of expert choice agree with differences, with padding and forbidden experts too") {
  GradcheckOptions options;
  const Index lengths[2] = {5, 2};
  const bool allowed[5] = {true, false, true, true, false};
  SECTION("plain") {}
  SECTION("padding") { options.pass.lengths = lengths; }
  SECTION("three allowed") { options.pass.allowed = allowed; }
  gradcheck_three_seeds<R>(options);
}

TEST_CASE("every expert takes exactly tokens * average / experts tokens, whatever the scores") {
  R router;
  draw_weights(router, 1, 3);
  for (const Index tokens : {5, 7, 40}) {
    const auto x = random_tokens<6, double>(tokens, 2);
    const Route route(router, x, {.shape = {1, tokens}});
    for (int e = 0; e < 5; ++e) CHECK(route.plan.load(e) == tokens * 2 / 5);
    CHECK(route.plan.dropped() == 0);
  }
}

TEST_CASE("an expert takes the tokens with its largest scores, and the gate is the score") {
  R router;
  draw_weights(router, 3);
  const auto x = random_tokens<6, double>(10, 4);
  const Route route(router, x, {.shape = {1, 10}});
  for (int e = 0; e < 5; ++e) {
    std::vector<double> scores;
    for (Index n = 0; n < 10; ++n) scores.push_back(route.tape.score[n][e]);
    std::sort(scores.rbegin(), scores.rend());
    for (Index n = 0; n < 10; ++n) {
      const Index s = route.plan.slot[n * 5 + e];
      CHECK((s >= 0) == (route.tape.score[n][e] >= scores[3]));   // capacity 4
      if (s >= 0) CHECK(route.plan.weight[s] == route.tape.score[n][e]);
    }
  }
}

TEST_CASE("equal scores go to the earlier tokens, and padding is never taken") {
  const R zeros;
  const auto x = random_tokens<6, double>(10, 5);
  const Index lengths[2] = {2, 5};
  const Route route(zeros, x, {.shape = {2, 5}, .lengths = lengths});   // 7 tokens: capacity 2
  for (int e = 0; e < 5; ++e)
    for (Index n = 0; n < 10; ++n) CHECK((route.plan.slot[n * 5 + e] >= 0) == (n < 2));
}

TEST_CASE("expert choice is not causal: a later token can take an earlier token's place") {
  R router;
  draw_weights(router, 6);
  auto x = random_tokens<6, double>(10, 7);
  const Pass pass{.shape = {1, 10}};
  const Route before(router, x, pass);
  bool moved = false;
  for (Index changed = 1; changed < 10 && !moved; ++changed) {
    auto other = x;
    for (int i = 0; i < 6; ++i) other[changed][i] *= -4;
    const Route after(router, other, pass);
    for (Index pair = 0; pair < changed * 5; ++pair)
      moved = moved || (before.plan.slot[pair] >= 0) != (after.plan.slot[pair] >= 0);
  }
  CHECK(moved);
  STATIC_REQUIRE_FALSE(ExpertChoiceRouter<5, 2>::causal);
}

TEST_CASE("the plan does not depend on the number of threads") {
  R router;
  draw_weights(router, 8);
  const auto x = random_tokens<6, double>(131, 9);
  const Route one(router, x, {.shape = {1, 131}});
  for (const int threads : {2, 3, 8}) {
    const Route many(router, x, {.shape = {1, 131}, .exec = {threads}});
    CHECK(same_bits(one.plan.slot, many.plan.slot));
    CHECK(same_bits(one.plan.weight.data(), many.plan.weight.data(), one.plan.slots()));
  }
}

TEST_CASE("NaN scores still give a balanced plan") {
  R router;
  draw_weights(router, 10);
  auto x = random_tokens<6, double>(10, 11);
  x[3][0] = x[7][2] = std::numeric_limits<double>::quiet_NaN();
  const Route route(router, x, {.shape = {1, 10}});
  for (int e = 0; e < 5; ++e) CHECK(route.plan.load(e) == 4);
}
