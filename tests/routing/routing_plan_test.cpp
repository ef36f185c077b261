#include <moegpt/routing/routing_plan.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <vector>

using namespace moegpt;

namespace {

template <class B>
auto list(const B& buffer, Index count) {
  return std::vector(buffer.begin(), buffer.begin() + count);
}

// Seven tokens, two choices, five experts. Token 3 has one expert, token 5 none, expert 3 no token.
const int chosen[14] = {4, 0, 0, 1, 4, 2, 0, no_expert, 1, 0, no_expert, no_expert, 0, 4};
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
  CHECK(plan.slot_count() == 11);
  CHECK(plan.dropped() == 0);
  CHECK(list(plan.offset, 6) == std::vector<Index>{0, 5, 7, 8, 8, 11});
  CHECK(list(plan.wanted, 5) == std::vector<Index>{5, 2, 1, 0, 3});
  CHECK(list(plan.token, 11) == std::vector<Index>{0, 1, 3, 4, 6, 1, 4, 2, 0, 2, 6});
  CHECK(list(plan.choice, 11) == std::vector<int>{1, 0, 0, 1, 0, 1, 0, 1, 0, 0, 1});
  CHECK(list(plan.gate, 11) == std::vector<float>{2, 3, 7, 10, 13, 4, 9, 6, 1, 5, 14});
  CHECK(list(plan.slot, 14) == std::vector<Index>{8, 0, 1, 5, 9, 7, 2, -1, 6, 3, -1, -1, 4, 10});
  CHECK(plan.load(0) == 5);
  CHECK(plan.load(3) == 0);
  CHECK(plan.rows(4).first == 8);
  CHECK(plan.rows(4).count == 3);
}

TEST_CASE("a full expert keeps its first tokens and drops the rest, which are counted") {
  const auto plan = plan_of(2);
  CHECK(list(plan.offset, 6) == std::vector<Index>{0, 2, 4, 5, 5, 7});
  CHECK(list(plan.wanted, 5) == std::vector<Index>{5, 2, 1, 0, 3});  // before dropping
  CHECK(plan.slot_count() == 7);
  CHECK(plan.dropped() == 4);
  CHECK(list(plan.token, 7) == std::vector<Index>{0, 1, 1, 4, 2, 0, 2});
  CHECK(list(plan.slot, 14) == std::vector<Index>{5, 0, 1, 2, 6, 4, -1, -1, 3, -1, -1, -1, -1, -1});
}

TEST_CASE("a capacity of the largest load drops nothing, one less drops one") {
  CHECK(plan_of(5).dropped() == 0);
  CHECK(list(plan_of(5).slot, 14) == list(plan_of(0).slot, 14));
  CHECK(plan_of(4).dropped() == 1);
}

TEST_CASE(
    "slots and pairs are inverse maps for any choices, and a reused plan does not depend on its old "
    "contents") {
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
      CHECK(plan.slot_count() + plan.dropped() == wanted);
      Index met = 0;
      for (Index pair = 0; pair < tokens * 3; ++pair) {
        const Index s = plan.slot[pair];
        if (s == no_slot) continue;
        ++met;
        CHECK(plan.token[s] == pair / 3);
        CHECK(plan.choice[s] == pair % 3);
        CHECK(plan.gate[s] == gates[pair]);
        const Rows rows = plan.rows(choices[pair]);
        CHECK((s >= rows.first && s < rows.first + rows.count));
      }
      CHECK(met == plan.slot_count());
      for (int e = 0; e < 5; ++e) {
        CHECK((capacity == 0 || plan.load(e) <= capacity));
        for (Index s = plan.offset[e] + 1; s < plan.offset[e + 1]; ++s)
          CHECK(plan.token[s - 1] <= plan.token[s]);
      }
    }
  }
}

namespace {

// Experts and gates [tokens, 2] of a batch with padding, among 5 experts.
struct Choices {
  static constexpr int E = 5, K = 2;
  Pass pass;
  DropRule drop;
  std::vector<int> chosen;
  std::vector<double> gate;

  Choices(const Pass& pass_, const DropRule& drop_, std::uint64_t seed) : pass(pass_), drop(drop_) {
    Rng rng(seed);
    for (Index n = 0; n < pass.tokens(); ++n) {
      const int first = static_cast<int>(rng.below(E)),
                second = (first + 1 + static_cast<int>(rng.below(E - 1))) % E;
      const double first_gate = 0.5 + 0.1 * static_cast<double>(rng.below(5));  // many ties
      const bool none = pass.is_padding(n);
      chosen.insert(chosen.end(), {none ? no_expert : first, none || rng.below(4) == 0 ? no_expert : second});
      gate.insert(gate.end(), {first_gate, 1 - first_gate});
    }
  }
  RoutingPlan<double> plan() const {
    RoutingPlan<double> plan;
    plan.drop = drop;
    plan.resize(pass.tokens(), K, E);
    plan.assign(chosen.data(), gate.data(), pass);
    return plan;
  }
};

// Definition: a pair is kept if fewer than C pairs of its expert and group come before it.
bool comes_before(const Choices& c, Index a, Index b) {
  const auto gate_of = [&](Index pair) { return c.gate[static_cast<std::size_t>(pair)]; };
  const Index n = a / 2, m = b / 2;
  switch (c.drop.order) {
    case Drop::token_order:
      return a < b;
    case Drop::slot_major:
      return a % 2 != b % 2 ? a % 2 < b % 2 : n < m;
    case Drop::batch_prioritised:
      if (a % 2 != b % 2) return a % 2 < b % 2;
      return gate_of(2 * n) != gate_of(2 * m) ? gate_of(2 * n) > gate_of(2 * m) : n < m;
    default:
      return gate_of(a) != gate_of(b) ? gate_of(a) > gate_of(b) : a < b;
  }
}
Index group_of(const Choices& c, Index token) {
  return c.drop.group == Group::sequence   ? token / c.pass.shape.length
         : c.drop.group == Group::position ? token % c.pass.shape.length
                                           : 0;
}
std::vector<bool> kept(const Choices& c) {
  std::vector<bool> keeps(c.chosen.size());
  for (Index a = 0; a < std::ssize(c.chosen); ++a) {
    const int e = c.chosen[static_cast<std::size_t>(a)];
    if (e < 0) continue;
    Index tokens = 0, before = 0;
    for (Index n = 0; n < c.pass.tokens(); ++n)
      tokens += group_of(c, n) == group_of(c, a / 2) && !c.pass.is_padding(n);
    for (Index b = 0; b < std::ssize(c.chosen); ++b)
      before += c.chosen[static_cast<std::size_t>(b)] == e && group_of(c, b / 2) == group_of(c, a / 2) &&
                comes_before(c, b, a);
    double capacity = static_cast<double>(tokens) * 2 / 5 * c.pass.options.capacity_factor;
    capacity = c.drop.rounding == Round::up ? std::ceil(capacity) : std::floor(capacity);
    keeps[static_cast<std::size_t>(a)] =
        static_cast<double>(before) < std::max({1.0, capacity, c.pass.options.min_capacity});
  }
  return keeps;
}

constexpr Drop all_drops[] = {Drop::token_order, Drop::slot_major, Drop::batch_prioritised,
                              Drop::probability};
constexpr Group all_groups[] = {Group::batch, Group::sequence, Group::position};

}  // namespace

TEST_CASE("every drop policy keeps the first pairs in its order, for each group and capacity") {
  const Index lengths[3] = {8, 3, 6};
  int dropped_somewhere = 0, kept_somewhere = 0;
  for (const Drop drop : all_drops)
    for (const Group group : all_groups)
      for (const ModelOptions& options : {ModelOptions{.capacity_factor = 0.5, .min_capacity = 1},
                                          ModelOptions{.capacity_factor = 1.1, .min_capacity = 1},
                                          ModelOptions{.capacity_factor = 0.1, .min_capacity = 2}})
        for (const Round rounding : {Round::down, Round::up})
          for (const bool padded : {false, true}) {
            CAPTURE(drop, group, options.capacity_factor, rounding, padded);
            const Choices c({.shape = {3, 8}, .options = options, .lengths = padded ? lengths : nullptr},
                            {drop, group, rounding}, 7);
            const auto plan = c.plan();
            const std::vector<bool> expected = kept(c);
            Index met = 0, wanted = 0;
            for (Index pair = 0; pair < 48; ++pair) {
              const Index s = plan.slot[pair];
              CHECK((s != no_slot) == expected[static_cast<std::size_t>(pair)]);
              wanted += c.chosen[static_cast<std::size_t>(pair)] != no_expert;
              if (s == no_slot) continue;
              ++met;
              CHECK(plan.token[s] == pair / 2);
              CHECK(plan.choice[s] == pair % 2);
              CHECK(plan.gate[s] == c.gate[static_cast<std::size_t>(pair)]);
              const Rows rows = plan.rows(c.chosen[static_cast<std::size_t>(pair)]);
              CHECK((s >= rows.first && s < rows.first + rows.count));
            }
            CHECK(met == plan.slot_count());
            CHECK(plan.dropped() == wanted - met);
            for (int e = 0; e < 5; ++e) {
              CHECK(plan.wanted[e] == std::count(c.chosen.begin(), c.chosen.end(), e));
              for (Index s = plan.offset[e] + 1; s < plan.offset[e + 1]; ++s)
                CHECK(plan.token[s - 1] < plan.token[s]);
            }
            dropped_somewhere += wanted > met;
            kept_somewhere += met > 0;
          }
  CHECK(dropped_somewhere > 80);  // of 144
  CHECK(kept_somewhere == 144);
}

TEST_CASE("a capacity of the largest count or more is dropless under every drop policy") {
  for (const Drop drop : all_drops)
    for (const Group group : all_groups) {
      const Choices free({.shape = {3, 8}}, {}, 9);
      const Pass pass{.shape = {3, 8}, .options = {.capacity_factor = 2.5}};  // E / K: the group's tokens
      const Choices limited(pass, {drop, group}, 9);
      CHECK(list(limited.plan().slot, 48) == list(free.plan().slot, 48));
      CHECK(list(limited.plan().wanted, 5) == list(free.plan().wanted, 5));
      CHECK(limited.plan().dropped() == 0);
    }
}

TEST_CASE(
    "orders differ in what they drop: later tokens, second choices, tokens of small gates, small gates") {
  // Three tokens, capacity 1 of two experts. All request experts 0 and 1; token 1 has 1 as its first choice.
  const int wants[6] = {0, 1, 1, 0, 0, 1};
  const float gates[6] = {0.6f, 0.4f, 0.7f, 0.3f, 0.8f, 0.2f};
  const auto kept_by = [&](Drop drop) {
    RoutingPlan<float> plan;
    plan.drop.order = drop;
    plan.resize(3, 2, 2);
    plan.assign(wants, gates, Pass{.shape = {1, 3}, .options = {.capacity_factor = 0.34}});
    std::vector<int> kept;
    for (Index pair = 0; pair < 6; ++pair)
      if (plan.slot[pair] != no_slot) kept.push_back(static_cast<int>(pair));
    return kept;
  };
  CHECK(kept_by(Drop::token_order) == std::vector{0, 1});
  CHECK(kept_by(Drop::slot_major) == std::vector{0, 2});
  CHECK(kept_by(Drop::batch_prioritised) == std::vector{2, 4});
  CHECK(kept_by(Drop::probability) == std::vector{2, 4});
}

TEST_CASE(
    "with a capacity per sequence another sequence of the batch changes no bit of a sequence's routes") {
  for (const Drop drop : all_drops) {
    const Pass pass{.shape = {3, 8}, .options = {.capacity_factor = 0.7}};
    Choices c(pass, {drop, Group::sequence}, 11);
    const auto before = c.plan();
    const Choices other(pass, c.drop, 12);
    std::copy_n(other.chosen.begin(), 16, c.chosen.begin());
    std::copy_n(other.chosen.begin() + 32, 16, c.chosen.begin() + 32);
    const auto after = c.plan();
    for (Index pair = 16; pair < 32; ++pair)
      CHECK((before.slot[pair] != no_slot) == (after.slot[pair] != no_slot));
  }
}

TEST_CASE("NaN gates come last in every order") {
  for (const Drop drop : all_drops) {
    Choices c({.shape = {3, 8}, .options = {.capacity_factor = 0.5}}, {.order = drop}, 13);
    for (std::size_t pair = 0; pair < 48; pair += 5) c.gate[pair] = std::numeric_limits<double>::quiet_NaN();
    const auto plan = c.plan();
    for (int e = 0; e < 5; ++e) CHECK(plan.load(e) <= 4);
    if (drop == Drop::probability)
      for (int e = 0; e < 5; ++e)
        for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s)
          CHECK((plan.load(e) < 4 || !std::isnan(plan.gate[s])));
  }
}

TEST_CASE("a plan rejects an expert that does not exist, under any drop policy") {
  const float gates[6] = {1, 1, 1, 1, 1, 1};
  const int beyond[6] = {0, 1, 2, 3, 1, 0};
  const auto refuses = [&](const DropRule& drop, double factor) {
    RoutingPlan<float> plan;
    plan.drop = drop;
    plan.resize(3, 2, 3);
    const Pass pass{.shape = {1, 3}, .options = {.capacity_factor = factor}};
    const std::string found = refusal([&] { plan.assign(beyond, gates, pass); });
    CHECK(found.find("choice 1 of token 1 is expert 3, expected 0 .. 2") != std::string::npos);
  };
  refuses({}, 0);
  for (const Drop drop : all_drops) refuses({.order = drop}, 3);
  refuses({.group = Group::sequence}, 3);
}
