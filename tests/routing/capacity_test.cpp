#include <moegpt/routing/capacity.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <limits>
#include <vector>

using namespace moegpt;

namespace {
bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}
}  // namespace

TEST_CASE("capacity is factor * pairs / experts rounded down, at least one, and none without a factor") {
  CHECK(expert_capacity(1.0, 64 * 2, 8) == 16);
  CHECK(expert_capacity(1.25, 7 * 2, 5) == 3);  // 3.5
  CHECK(expert_capacity(1.0, 1 * 2, 8) == 1);
  CHECK(expert_capacity(0, 64, 8) == 0);
  for (const Round round : {Round::down, Round::up}) {  // integers are not rounded
    CHECK(expert_capacity(1.0, 64 * 2, 8, round) == 16);
    CHECK(expert_capacity(0.5, 6, 3, round) == 1);
    CHECK(expert_capacity(1.5, 8, 4, round) == 3);
  }
  CHECK(expert_capacity(1.0, 129, 8, Round::up) == 17);
  CHECK(expert_capacity(1.0, 127, 8) == 15);
}

TEST_CASE("the capacities of other systems are a factor, a minimum, a group and a rounding") {
  const auto capacity = [](Index tokens, double factor, int K, int E, double least,
                           Round round = Round::down) {
    return capacity_of(tokens, factor, K, E, round, least);
  };
  CHECK(capacity(1024, 1.25, 1, 8, 0) == 160);          // Switch: N / E cf
  CHECK(capacity(96, 1, 2, 8, 0) == 24);                // makeMoE: int(N K / E cf)
  CHECK(capacity(100, 1.1, 2, 7, 0, Round::up) == 32);  // Megatron: ceil(31.43)
  CHECK(capacity(100, 1.1, 2, 7, 0) == 31);
  CHECK(capacity(64, 1.25 / 2, 2, 8, 4) == 10);  // Mesh, per sequence: int(N cf / E), no K, at least 4
  CHECK(capacity(16, 1.25 / 2, 2, 8, 4) == 4);
  CHECK(capacity(512, 1e-9, 1, 8, 64) == 64);  // HF Switch, per sequence: a constant
  CHECK(capacity(3, 1, 2, 8, 64) == 3);        // never more than the tokens
  CHECK(capacity(3, 100, 2, 8, 0) == 3);
}

TEST_CASE("padding is not counted among the tokens that are routed") {
  const Index lengths[3] = {4, 0, 2};
  Pass pass{.shape = {3, 4}};
  CHECK(routed_tokens(pass) == 12);
  pass.lengths = lengths;
  CHECK(routed_tokens(pass) == 6);
  CHECK(routed_tokens(Groups{Group::sequence, pass.shape}[2], pass) == 2);
  CHECK(routed_tokens(Groups{Group::position, pass.shape}[1], pass) == 2);
  CHECK(routed_tokens(Groups{Group::position, pass.shape}[3], pass) == 1);
}

TEST_CASE("groups of every kind hold each token exactly once") {
  for (const Group kind : {Group::batch, Group::sequence, Group::position}) {
    const Groups groups{kind, {3, 5}};
    std::vector<int> met(15);
    for (Index g = 0; g < groups.size(); ++g)
      for (Index i = 0; i < groups[g].count; ++i) {
        const Index n = groups[g][i];
        ++met[static_cast<std::size_t>(n)];
        if (kind == Group::sequence) CHECK(n / 5 == g);
        if (kind == Group::position) CHECK(n % 5 == g);
      }
    CHECK(met == std::vector<int>(15, 1));
  }
}

TEST_CASE(
    "a capacity below one slot is rejected with its numbers and remedies, by shape and not by padding") {
  const auto refused = [](double factor, const Pass& pass, const DropRule& rule = {}) {
    return refusal([&] { check_capacity("capacity_factor", factor, rule, 1, 8, pass); });
  };
  const Index lengths[2] = {4, 1};
  const Pass small{.shape = {1, 4}}, padded{.shape = {2, 4}, .lengths = lengths};
  const std::string text = refused(1, small);
  CHECK(contains(text, "capacity_factor 1 gives an expert 0.5 slots (1 * 4 tokens * 1 choices / 8 experts)"));
  CHECK(contains(text, "raise capacity_factor to 2 or more"));
  CHECK(contains(text, "min_capacity"));
  CHECK(refused(2, small).empty());
  CHECK(refused(1, padded).empty());  // 8 tokens by shape, 5 of them padding
  CHECK(!refused(1, padded, {.group = Group::sequence}).empty());
  CHECK(refused(1, small, {.rounding = Round::up}).empty());
  Pass least = small, partial = small;
  least.options.min_capacity = 1;
  partial.partial = true;
  for (const Pass& pass : {least, partial}) CHECK(refused(1, pass).empty());
}

TEST_CASE("sorting puts the largest first, the lower index among ties, and NaN last") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double value[7] = {1, nan, 3, 1, -2, nan, 3};
  Index numbers[7] = {6, 5, 4, 3, 2, 1, 0};
  sort_descending(numbers, 7, 7, [&](Index i) { return value[i]; });
  CHECK(std::vector<Index>(numbers, numbers + 7) == std::vector<Index>{2, 6, 0, 3, 4, 1, 5});
  Index other[7] = {0, 1, 2, 3, 4, 5, 6};
  sort_descending(other, 3, 7, [&](Index i) { return value[i]; });
  CHECK(std::vector<Index>(other, other + 3) == std::vector<Index>{2, 6, 0});
}

TEST_CASE(
    "a factor that is not finite and zero experts are rejected, and a huge capacity does not overflow") {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  for (const double factor : {-1.0, nan, inf})
    CHECK(contains(refusal([&] { expert_capacity(factor, 8, 2); }), "factor"));
  for (const double pairs : {-1.0, nan, inf})
    CHECK(contains(refusal([&] { expert_capacity(1, pairs, 2); }), "pairs"));
  CHECK(contains(refusal([] { expert_capacity(1, 8, 0); }), "0 experts"));
  CHECK(expert_capacity(1e300, 8, 2) > 1000000);
  CHECK(capacity_of(5, 1e300, 2, 4, Round::down, 0) == 5);
}
