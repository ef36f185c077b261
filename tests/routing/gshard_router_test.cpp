#include <moegpt/routing/gshard_router.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/rules.hpp"

#include <set>

using namespace moegpt;

namespace {

template <class Recipe>
using Double = typename Recipe::template For<6, double>;
using Half = std::ratio<1, 2>;  // the largest possible second gate

}  // namespace

TEST_CASE("the gradients of a GShard router agree with differences for every policy and E = 5, 6, 8") {
  GradcheckOptions options;
  options.pass.key = Key{3};
  SECTION("random") { gradcheck_three_seeds<Double<GShardRouter<5, Second::random, Half>>>(options); }
  SECTION("threshold") {
    gradcheck_three_seeds<Double<GShardRouter<6, Second::threshold, std::ratio<2, 5>>>>(options);
  }
  SECTION("none") { gradcheck_three_seeds<Double<GShardRouter<8, Second::none>>>(options); }
  SECTION("all") { gradcheck_three_seeds<Double<GShardRouter<8, Second::all>>>(options); }
}

TEST_CASE(
    "the gradients of a GShard router agree with differences with padding, capacity and experts that are not "
    "allowed") {
  const Index lengths[2] = {5, 2};
  const bool four[8] = {true, false, true, true, false, false, true, false}, one[8] = {false, false, true};
  GradcheckOptions options;
  options.pass.key = Key{4};
  SECTION("padding") { options.pass.lengths = lengths; }
  SECTION("capacity of one") { options.pass.options.capacity_factor = 0.4; }
  SECTION("idle experts") { options.routing.allowed = four; }
  SECTION("one allowed") { options.routing.allowed = one; }
  gradcheck_three_seeds<Double<GShardRouter<8, Second::random, Half>>>(options);
}

TEST_CASE("GShard routing passes check_router") {
  check_rule<GShardRouter<8>>();
  check_rule<GShardRouter<8, Second::random, Half>>();
  check_equal_experts<GShardRouter<5>>();  // evaluation: no expert is discarded
}

TEST_CASE("a GShard router that keeps all seconds is top-2 with renormalised gates, bit for bit") {
  const Pass pass{.shape = {1, 60}};
  const RandomRoute<GShardRouter<6, Second::all>> all(pass);
  const RandomRoute<GShardRouter<6>> evaluation(pass);
  const RandomRoute<TopKRouter<6, 2>> top(pass);
  for (Index n = 0; n < 60; ++n) {
    CHECK(all.gates(n) == top.gates(n));
    CHECK(evaluation.gates(n) == top.gates(n));
  }
}

TEST_CASE("a discarded second expert does not change the first gate") {
  const Pass pass{.shape = {1, 60}};
  const RandomRoute<GShardRouter<6, Second::none>> none(pass);
  const RandomRoute<GShardRouter<6, Second::threshold, std::ratio<2, 5>>> some(pass);
  const RandomRoute<TopKRouter<6, 2>> top(pass);
  CHECK(none.plan.slot_count() == 60);
  CHECK((some.plan.slot_count() > 60 && some.plan.slot_count() < 120));
  for (Index n = 0; n < 60; ++n) {
    const auto expected = top.gates(n), gate = some.gates(n);
    const double first = *std::max_element(expected.begin(), expected.end());
    CHECK(*std::max_element(gate.begin(), gate.end()) == first);
    const auto alone = none.gates(n);
    CHECK(*std::max_element(alone.begin(), alone.end()) == first);
    for (int e = 0; e < 6; ++e)
      if (expected[e] < first) CHECK(gate[e] == (expected[e] > 0.4 ? expected[e] : 0));
  }
}

TEST_CASE("the tape names a discarded second expert in selected and not in chosen") {
  const Index lengths[1] = {40};
  const RandomRoute<GShardRouter<6, Second::threshold, std::ratio<2, 5>>> some(
      {.shape = {1, 60}, .lengths = lengths});
  const RandomRoute<TopKRouter<6, 2>> top({.shape = {1, 60}, .lengths = lengths});
  Index left_out = 0;
  for (Index pair = 0; pair < 120; ++pair) {
    CHECK(some.tape.selected[pair] == top.tape.chosen[pair]);
    CHECK((some.plan.slot[pair] == no_slot) == (some.tape.chosen[pair] == no_expert));
    if (some.tape.chosen[pair] != no_expert) CHECK(some.tape.chosen[pair] == some.tape.selected[pair]);
    left_out += some.tape.chosen[pair] == no_expert && some.tape.selected[pair] != no_expert;
  }
  CHECK((left_out > 0 && left_out < 40));
  CHECK(top.tape.selected.size() == 0);
}

TEST_CASE("a second expert is kept with probability g2 / threshold, sampled for every key and token") {
  RandomRoute<GShardRouter<6, Second::random, Half>> route({.shape = {1, 200}});
  double expected = 0;
  for (Index n = 0; n < 200; ++n) expected += std::min(1.0, route.tape.gate[2 * n + 1] * 2);
  double kept = 0, variance = 0;
  for (Index n = 0; n < 200; ++n) {
    const double p = std::min(1.0, route.tape.gate[2 * n + 1] * 2);
    variance += p * (1 - p);
  }
  constexpr int keys = 50;
  std::set<Index> slot_count;
  for (int k = 0; k < keys; ++k) {
    route.forward({.shape = {1, 200}, .key = Key{mix64(static_cast<std::uint64_t>(k))}});
    kept += static_cast<double>(route.plan.slot_count() - 200);
    slot_count.insert(route.plan.slot_count());
  }
  CHECK(std::abs(kept / keys - expected) < 4 * std::sqrt(variance / keys));
  CHECK(slot_count.size() > 5);
}

TEST_CASE("the text of a GShard router is the type one writes") {
  CHECK(GShardRouter<8>::text() == "GShardRouter<8, Second::random, std::ratio<1, 5>>");
}
