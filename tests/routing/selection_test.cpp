#include <moegpt/routing/selection.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <algorithm>
#include <vector>

using namespace moegpt;

namespace {

constexpr int E = 8;

struct Token {
  double z[E], s[E], bias[E] = {};
  explicit Token(std::uint64_t seed) {
    const auto logits = random_numbers<double>(E, seed);
    std::copy_n(logits.data(), E, z);
    score();
  }
  void score() {
    std::copy_n(z, E, s);
    kernels::softmax(s, E);
  }
  void forbid(int e) { z[e] = kernels::minus_infinity<double>; }
};
template <class Selection>
std::vector<int> choices(const Token& token, int most) {
  int chosen[E];
  const Pass pass;
  const Candidate<double> candidate{token.z, token.s, token.bias, E, most, nullptr, pass, 0};
  const int count = Selection::select(candidate, chosen);
  return {chosen, chosen + count};
}

}  // namespace

TEST_CASE("the largest scores without a bias, and with a bias of zero, are the largest logits") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const Token token(seed);
    const auto expected = choices<LargestLogits>(token, 3);
    CHECK(choices<LargestScores<false>>(token, 3) == expected);
    CHECK(choices<LargestScores<true>>(token, 3) == expected);
    CHECK(choices<LargestScores<true, 1, 1>>(token, 3) == expected);
    CHECK(choices<LargestScores<true, 4, 4>>(token, 3) == expected);   // all groups are retained
    CHECK(choices<LargestScores<false, 8, 3>>(token, 3) == expected);  // groups of one
  }
}

TEST_CASE("a selection bias is added to the score of an allowed expert") {
  Token token(1);
  const int last = choices<LargestLogits>(token, E).back();
  token.bias[last] = 1;  // more than any probability
  CHECK(choices<LargestScores<true>>(token, 2).front() == last);
  token.forbid(last);
  token.score();
  const auto chosen = choices<LargestScores<true>>(token, E);
  CHECK(chosen.size() == E - 1);
  CHECK(std::find(chosen.begin(), chosen.end(), last) == chosen.end());
}

TEST_CASE("the value of a group is the sum of its two largest scores, without a bias its largest") {
  Token token(1);
  const double s[E] = {0.9, 0.1, 0.6, 0.5, 0.3, 0.2, 0.35, 0.8};  // groups of two: 1.0, 1.1, 0.5, 1.15
  std::copy_n(s, E, token.s);
  CHECK(choices<LargestScores<true, 4, 1>>(token, 2) == std::vector{7, 6});
  CHECK(choices<LargestScores<true, 4, 2>>(token, 4) == std::vector{7, 2, 3, 6});
  CHECK(choices<LargestScores<false, 4, 1>>(token, 2) == std::vector{0, 1});
  CHECK(choices<LargestScores<false, 4, 2>>(token, 3) == std::vector{0, 7, 6});
}

TEST_CASE("groups are masked, not set to zero: negative biased scores of a retained group are selected") {
  Token token(1);
  for (int e = 0; e < E; ++e) token.bias[e] = -2 - 0.1 * e;
  const auto chosen = choices<LargestScores<true, 2, 1>>(token, 4);
  CHECK(chosen.size() == 4);
  CHECK(std::all_of(chosen.begin(), chosen.end(), [&](int e) { return e / 4 == chosen[0] / 4; }));
}

TEST_CASE(
    "a group with one allowed expert has its value, and fewer than K allowed experts are all selected") {
  Token token(1);
  const double s[E] = {0.9, 0, 0.3, 0.2, 0, 0, 0, 0};
  std::copy_n(s, E, token.s);
  for (const int e : {1, 4, 5, 6, 7}) token.forbid(e);
  CHECK(choices<LargestScores<true, 4, 1>>(token, 2) == std::vector{0});
  CHECK(choices<LargestScores<true, 4, 2>>(token, 4) == std::vector{0, 2, 3});
}

TEST_CASE("top-p selects the fewest experts whose scores sum to p, and at most K") {
  Token token(1);
  const double s[E] = {0.05, 0.4, 0.02, 0.3, 0.01, 0.15, 0.05, 0.02};
  for (int e = 0; e < E; ++e) token.z[e] = std::log(s[e]);
  token.score();
  CHECK(choices<Nucleus<std::ratio<39, 100>>>(token, 4) == std::vector{1});
  CHECK(choices<Nucleus<std::ratio<41, 100>>>(token, 4) == std::vector{1, 3});
  CHECK(choices<Nucleus<std::ratio<71, 100>>>(token, 4) == std::vector{1, 3, 5});
  CHECK(choices<Nucleus<std::ratio<99, 100>>>(token, 4) == std::vector{1, 3, 5, 0});
  CHECK(choices<Nucleus<std::ratio<1>>>(token, E) == choices<LargestLogits>(token, E));
}

TEST_CASE("every allowed expert is selected, in order") {
  Token token(1);
  CHECK(choices<EveryExpert>(token, E) == std::vector{0, 1, 2, 3, 4, 5, 6, 7});
  token.forbid(3);
  CHECK(choices<EveryExpert>(token, E) == std::vector{0, 1, 2, 4, 5, 6, 7});
}
