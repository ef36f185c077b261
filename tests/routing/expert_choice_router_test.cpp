#include <moegpt/routing/expert_choice_router.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"
#include "support/rules.hpp"

#include <vector>

using namespace moegpt;

namespace {

using Recipe = ExpertChoiceRouter<5, 2>;
using R = Recipe::For<6, double>;
struct Route {
  RoutingPlan<double> plan;
  R::Tape tape;
  Route(const R& router, In<6, double> x, const Pass& pass) { router.forward(x, plan, tape, pass); }
};

}  // namespace

TEST_CASE(
    "the gradients of expert choice agree with differences, with padding and with experts that are not "
    "allowed") {
  GradcheckOptions options;
  const Index lengths[2] = {5, 2};
  const bool allowed[5] = {true, false, true, true, false};
  SECTION("plain") {}
  SECTION("padding") { options.pass.lengths = lengths; }
  SECTION("three allowed") { options.routing.allowed = allowed; }
  gradcheck_three_seeds<Recipe>(options);
}

TEST_CASE("likewise for one and three experts per token on average") {
  gradcheck_three_seeds<ExpertChoiceRouter<6, 1>>();
  gradcheck_three_seeds<ExpertChoiceRouter<8, 3>>();
}

TEST_CASE("every expert selects exactly tokens * average / experts tokens, whatever the scores") {
  R router;
  draw_weights(router, 1, 3);
  for (const Index tokens : {5, 7, 40}) {
    const auto x = random_tokens<6, double>(tokens, 2);
    const Route route(router, x, {.shape = {1, tokens}});
    for (int e = 0; e < 5; ++e) CHECK(route.plan.load(e) == tokens * 2 / 5);
    CHECK(route.plan.dropped() == 0);
  }
}

TEST_CASE("an expert selects the tokens with its largest scores, and the gate is the score") {
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
      CHECK((s != no_slot) == (route.tape.score[n][e] >= scores[3]));  // capacity 4
      if (s != no_slot) CHECK(route.plan.gate[s] == route.tape.score[n][e]);
    }
  }
}

TEST_CASE("ties go to the earlier tokens, and padding is never selected") {
  const R zeros;
  const auto x = random_tokens<6, double>(10, 5);
  const Index lengths[2] = {2, 5};
  const Route route(zeros, x, {.shape = {2, 5}, .lengths = lengths});  // 7 tokens: capacity 2
  for (int e = 0; e < 5; ++e)
    for (Index n = 0; n < 10; ++n) CHECK((route.plan.slot[n * 5 + e] != no_slot) == (n < 2));
}

TEST_CASE("expert choice is not causal: a later token can displace an earlier one") {
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
      moved = moved || (before.plan.slot[pair] != no_slot) != (after.plan.slot[pair] != no_slot);
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
    CHECK(same_bits(one.plan.gate.data(), many.plan.gate.data(), one.plan.slot_count()));
  }
}

TEST_CASE("expert choice in the batch, in a sequence, by position and by thresholds passes check_router") {
  check_rule<ExpertChoiceRouter<5>>();
  check_rule<ExpertChoiceRouter<5, 1, ExpertChoice{.group = Group::sequence}>>();
  check_rule<ExpertChoiceRouter<5, 2, ExpertChoice{.group = Group::position}>>();
  check_rule<ThresholdExpertChoice<5, 2>>();
}

TEST_CASE("NaN scores still give a balanced plan") {
  R router;
  draw_weights(router, 10);
  auto x = random_tokens<6, double>(10, 11);
  x[3][0] = x[7][2] = std::numeric_limits<double>::quiet_NaN();
  const Route route(router, x, {.shape = {1, 10}});
  for (int e = 0; e < 5; ++e) CHECK(route.plan.load(e) == 4);
}

namespace {

template <Group G>
using GroupedRecipe = ExpertChoiceRouter<5, 2, ExpertChoice{.group = G}>;
template <Group G>
using Grouped = typename GroupedRecipe<G>::template For<6, double>;
using Threshold = ThresholdExpertChoice<5, 2>::For<6, double>;

template <class Router>
RoutingPlan<double> plan_of(const Router& router, In<6, double> x, const Pass& pass) {
  RoutingPlan<double> plan;
  typename Router::Tape tape;
  router.forward(x, plan, tape, pass);
  return plan;
}

}  // namespace

TEST_CASE("the gradients of grouped and threshold expert choice agree with differences") {
  GradcheckOptions options;
  options.pass.shape = {3, 4};
  const Index lengths[3] = {4, 2, 3};
  SECTION("plain") {}
  SECTION("padding") { options.pass.lengths = lengths; }
  SECTION("a key") { options.pass.key = Key{1}; }
  gradcheck_three_seeds<GroupedRecipe<Group::sequence>>(options);
  gradcheck_three_seeds<GroupedRecipe<Group::position>>(options);
  gradcheck_three_seeds<ThresholdExpertChoice<5, 2>>(options);
}

TEST_CASE("each group by itself is expert choice over that group as a batch of its own") {
  Grouped<Group::sequence> by_sequence;
  Grouped<Group::position> by_position;
  R by_batch;
  draw_weights(by_batch, 12);
  by_sequence.logits = by_position.logits = by_batch.logits;
  const auto x = random_tokens<6, double>(35, 13);
  const Shape shape{5, 7};
  const auto examine = [&](Group kind, const RoutingPlan<double>& plan) {
    const Groups groups{kind, shape};
    for (Index g = 0; g < groups.size(); ++g) {
      Tokens<6, double> part(groups[g].count);
      for (Index i = 0; i < part.count(); ++i) std::copy_n(x[groups[g][i]], 6, part[i]);
      const auto alone = plan_of(by_batch, part, {.shape = {1, part.count()}});
      for (Index i = 0; i < part.count(); ++i)
        for (int e = 0; e < 5; ++e)
          CHECK((plan.slot[groups[g][i] * 5 + e] != no_slot) == (alone.slot[i * 5 + e] != no_slot));
    }
  };
  examine(Group::sequence, plan_of(by_sequence, x, {.shape = shape}));
  examine(Group::position, plan_of(by_position, x, {.shape = shape}));
}

TEST_CASE(
    "by position expert choice is causal: a later token changes no earlier token's route in any sequence") {
  STATIC_REQUIRE(ExpertChoiceRouter<5, 2, ExpertChoice{.group = Group::position}>::causal);
  STATIC_REQUIRE_FALSE(ExpertChoiceRouter<5, 2, ExpertChoice{.group = Group::sequence}>::causal);
  STATIC_REQUIRE_FALSE(ThresholdExpertChoice<5>::causal);
  Grouped<Group::position> router;
  draw_weights(router, 14);
  auto x = random_tokens<6, double>(20, 15);
  const Pass pass{.shape = {4, 5}};
  const auto before = plan_of(router, x, pass);
  for (int i = 0; i < 6; ++i) x[1 * 5 + 3][i] *= -4;  // sequence 1, position 3
  const auto after = plan_of(router, x, pass);
  for (Index n = 0; n < 20; ++n)
    if (n % 5 != 3)
      for (int e = 0; e < 5; ++e)
        CHECK((before.slot[n * 5 + e] != no_slot) == (after.slot[n * 5 + e] != no_slot));
}

TEST_CASE("too few tokens for one slot of an expert are rejected, except in generation or with a minimum") {
  R by_batch;
  Grouped<Group::position> by_position;
  const auto x = random_tokens<6, double>(14, 16);
  const std::string text = refusal([&] { plan_of(by_position, x, {.shape = {2, 7}}); });
  CHECK(text.find("ExpertChoiceRouter's Average 2 gives an expert 0.8 slots (2 * 2 tokens") !=
        std::string::npos);
  CHECK(refusal([&] { plan_of(by_batch, x, {.shape = {2, 7}}); }).empty());
  const auto least = plan_of(by_position, x, {.shape = {2, 7}, .options = {.min_capacity = 1}});
  const auto partial = plan_of(by_position, x, {.shape = {2, 7}, .partial = true});
  for (int e = 0; e < 5; ++e) CHECK(least.load(e) == 7);  // one of two tokens at each of seven positions
  CHECK(same_bits(least.slot, partial.slot));
}

TEST_CASE("thresholds learned from a batch give that batch the same routes, and each token alone its own") {
  Threshold router;
  draw_weights(router, 17);
  router.threshold.memory().fill(0);
  const auto x = random_tokens<6, double>(10, 18);
  const Pass training{.shape = {1, 10}, .key = Key{1}}, evaluation{.shape = {1, 10}};
  const auto everywhere = plan_of(router, x, evaluation);
  CHECK(everywhere.slot_count() == 50);  // thresholds 0: all tokens
  const auto chosen = plan_of(router, x, training);
  update_thresholds(router, chosen, 0.25);  // the first time it is the score
  const auto again = plan_of(router, x, evaluation);
  CHECK(same_bits(chosen.slot, again.slot));
  for (int e = 0; e < 5; ++e) CHECK(again.load(e) == 4);
  for (Index n = 0; n < 10; ++n) {
    const auto alone = plan_of(router, x.view().rows({n, 1}), {.shape = {1, 1}});
    for (int e = 0; e < 5; ++e) CHECK((alone.slot[e] != no_slot) == (again.slot[n * 5 + e] != no_slot));
  }
}

TEST_CASE(
    "a threshold moves by its rate towards the smallest score its expert selected, and does not change for "
    "an idle expert") {
  Threshold router;
  draw_weights(router, 19);
  const bool allowed[5] = {true, true, false, true, true};
  const auto x = random_tokens<6, double>(10, 20);
  const auto plan = plan_of(router, x, RoutedPass({.shape = {2, 5}, .key = Key{1}}, {.allowed = allowed}));
  const auto before = router.threshold;
  update_thresholds(router, plan, 0.25);
  for (int e = 0; e < 5; ++e) {
    double least = before[e];
    for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s)
      least = s == plan.offset[e] ? plan.gate[s] : std::min(least, plan.gate[s]);
    CHECK(router.threshold[e] == Approx(0.75 * before[e] + 0.25 * least).epsilon(1e-14));
  }
}

TEST_CASE("the text of expert choice is the type one writes") {
  CHECK(ExpertChoiceRouter<5>::text() == "ExpertChoiceRouter<5, 2>");
  CHECK(ExpertChoiceRouter<5, 1, ExpertChoice{.group = Group::position}>::text() ==
        "ExpertChoiceRouter<5, 1, ExpertChoice{.group = Group::position}>");
  CHECK(ThresholdExpertChoice<5>::text() == "ExpertChoiceRouter<5, 2, ExpertChoice{.thresholds = true}>");
}

TEST_CASE("grouped plans do not depend on the number of threads") {
  Grouped<Group::position> by_position;
  Grouped<Group::sequence> by_sequence;
  draw_weights(by_position, 21);
  by_sequence.logits = by_position.logits;
  const auto x = random_tokens<6, double>(40 * 90, 22);
  const auto contemporaries = plan_of(by_position, x, {.shape = {40, 90}});
  const auto sequences = plan_of(by_sequence, x, {.shape = {40, 90}});
  for (const int threads : {2, 3, 8}) {
    const Pass pass{.shape = {40, 90}, .exec = {threads}};
    CHECK(same_bits(contemporaries.slot, plan_of(by_position, x, pass).slot));
    CHECK(same_bits(sequences.slot, plan_of(by_sequence, x, pass).slot));
  }
}

TEST_CASE("thresholds move at a rate above zero and at most one, by a plan of as many experts") {
  ThresholdExpertChoice<4, 2>::For<6, double> router;
  RoutingPlan<double> plan, other;
  plan.resize(8, 4, 4);
  other.resize(8, 5, 5);
  for (const double rate : {0.0, -0.1, 1.1, std::nan("")})
    CHECK(refusal([&] { update_thresholds(router, plan, rate); }).find("must lie in (0, 1]") !=
          std::string::npos);
  CHECK(refusal([&] { update_thresholds(router, other, 0.5); }).find("4 thresholds, the plan 5") !=
        std::string::npos);
}

TEST_CASE("expert choice among 2^16 experts needs no stack memory for them") {
  check_small_stack<ExpertChoiceRouter<1 << 16, 1>>({.options = {.min_capacity = 1}});
}
