#include <moegpt/moe/routing_plan.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <vector>

using namespace moegpt;

namespace {

template <class B>
auto list(const B& buffer, Index count) {
  return std::vector(buffer.begin(), buffer.begin() + count);
}

// Seven tokens, two choices, five experts; token 3 chose one expert, token 5 none, nobody chose expert 3.
const int chosen[14] = {4, 0, 0, 1, 4, 2, 0, -1, 1, 0, -1, -1, 0, 4};
const float gate[14] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};

RoutingPlan<float> plan_of(Index capacity) {
  RoutingPlan<float> plan;
  plan.resize(7, 2, 5);
  plan.assign(chosen, gate, capacity);
  return plan;
}

}  // namespace

TEST_CASE("pairs are sorted by expert, and by token within an expert") {
  const auto plan = plan_of(0);
  CHECK(plan.slots() == 11);
  CHECK(plan.dropped() == 0);
  CHECK(list(plan.offset, 6) == std::vector<Index>{0, 5, 7, 8, 8, 11});
  CHECK(list(plan.wanted, 5) == std::vector<Index>{5, 2, 1, 0, 3});
  CHECK(list(plan.token, 11) == std::vector<Index>{0, 1, 3, 4, 6, 1, 4, 2, 0, 2, 6});
  CHECK(list(plan.choice, 11) == std::vector<int>{1, 0, 0, 1, 0, 1, 0, 1, 0, 0, 1});
  CHECK(list(plan.weight, 11) == std::vector<float>{2, 3, 7, 10, 13, 4, 9, 6, 1, 5, 14});
  CHECK(list(plan.slot, 14) == std::vector<Index>{8, 0, 1, 5, 9, 7, 2, -1, 6, 3, -1, -1, 4, 10});
  CHECK(plan.load(0) == 5);
  CHECK(plan.load(3) == 0);
  CHECK(plan.rows(4).first == 8);
  CHECK(plan.rows(4).count == 3);
}

TEST_CASE("a full expert keeps its first tokens and drops the rest, which are counted") {
  const auto plan = plan_of(2);
  CHECK(list(plan.offset, 6) == std::vector<Index>{0, 2, 4, 5, 5, 7});
  CHECK(list(plan.wanted, 5) == std::vector<Index>{5, 2, 1, 0, 3});   // as chosen, before dropping
  CHECK(plan.slots() == 7);
  CHECK(plan.dropped() == 4);
  CHECK(list(plan.token, 7) == std::vector<Index>{0, 1, 1, 4, 2, 0, 2});
  CHECK(list(plan.slot, 14) == std::vector<Index>{5, 0, 1, 2, 6, 4, -1, -1, 3, -1, -1, -1, -1, -1});
}

TEST_CASE("a capacity that is just enough drops nothing, one less drops one") {
  CHECK(plan_of(5).dropped() == 0);
  CHECK(list(plan_of(5).slot, 14) == list(plan_of(0).slot, 14));
  CHECK(plan_of(4).dropped() == 1);
}

TEST_CASE("slots and pairs point at each other for any choices, and a plan that is used again forgets the old one") {
  RoutingPlan<double> plan;
  Rng rng(1);
  for (const Index tokens : {50, 7, 0, 31}) {
    for (const Index capacity : {0, 3}) {
      Buffer<int> choices(tokens * 3);
      Buffer<double> gates(tokens * 3);
      Index wanted = 0;
      for (Index i = 0; i < tokens * 3; ++i) {
        choices[i] = static_cast<int>(rng.below(6)) - 1;
        gates[i] = rng.normal();
        wanted += choices[i] >= 0;
      }
      plan.resize(tokens, 3, 5);
      plan.assign(choices.data(), gates.data(), capacity);
      CHECK(plan.slots() + plan.dropped() == wanted);
      Index met = 0;
      for (Index pair = 0; pair < tokens * 3; ++pair) {
        const Index s = plan.slot[pair];
        if (s == plan.none) continue;
        ++met;
        CHECK(plan.token[s] == pair / 3);
        CHECK(plan.choice[s] == pair % 3);
        CHECK(plan.weight[s] == gates[pair]);
        const Rows rows = plan.rows(choices[pair]);
        CHECK((s >= rows.first && s < rows.first + rows.count));
      }
      CHECK(met == plan.slots());
      for (int e = 0; e < 5; ++e) {
        CHECK((capacity == 0 || plan.load(e) <= capacity));
        for (Index s = plan.offset[e] + 1; s < plan.offset[e + 1]; ++s) CHECK(plan.token[s - 1] <= plan.token[s]);
      }
    }
  }
}
