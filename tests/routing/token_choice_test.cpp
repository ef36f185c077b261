#include <moegpt/routing/token_choice.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/routed_pass.hpp"

#include <numeric>
#include <set>

using namespace moegpt;

namespace {

constexpr int E = 5, K = 3;
constexpr Index tokens = 7;

// Forward and backward of choose_experts for given logits.
template <class Gates>
struct Choice {
  using Rule = Decisions<SoftmaxScores, LargestLogits, Gates>;
  TokenChoiceTape<E, K, double> tape;
  RoutingPlan<double> plan;
  Tokens<E, double> dz{tokens};
  Choice(const Tokens<E, double>& logits, const Pass& pass) {
    tape.resize(pass);
    tape.score = logits;
    choose_experts<Rule>(plan, tape, pass);
  }
  void backward(const RouterSignal<double>& signal, const Pass& pass) {
    dz.memory().fill(99);  // overwritten
    choose_experts_backward<Rule>(plan, tape, signal, dz.view(), pass);
  }
};
const Pass pass{.shape = {1, tokens}};

double row_sum(const Tokens<E, double>& x, Index n) { return std::accumulate(x[n], x[n] + E, 0.0); }

}  // namespace

TEST_CASE("each token selects the K largest logits, largest first, and there are N K pairs") {
  const auto z = random_tokens<E, double>(tokens, 1);
  const Choice<RenormalisedGates> choice(z, pass);
  CHECK(choice.plan.slot_count() == tokens * K);
  for (Index n = 0; n < tokens; ++n) {
    const int* c = choice.tape.chosen.data() + n * K;
    CHECK(z[n][c[0]] > z[n][c[1]]);
    CHECK(z[n][c[1]] > z[n][c[2]]);
    for (int e = 0; e < E; ++e)
      if (e != c[0] && e != c[1] && e != c[2]) CHECK(z[n][e] < z[n][c[2]]);
  }
}

TEST_CASE("softmax over the selected is softmax over all divided by their sum, in values and gradients") {
  const auto z = random_tokens<E, double>(tokens, 2);
  const auto dg = random_numbers<double>(tokens * K, 3);
  Choice<RenormalisedGates> choice(z, pass);
  Buffer<double> d_slot(tokens * K);
  for (Index pair = 0; pair < tokens * K; ++pair) d_slot[choice.plan.slot[pair]] = dg[pair];
  choice.backward({.d_gate = d_slot.data()}, pass);
  for (Index n = 0; n < tokens; ++n) {
    const int* c = choice.tape.chosen.data() + n * K;
    const double* g = dg.data() + n * K;
    double s[E], total = 0, sigma = 0, mean = 0;
    for (int e = 0; e < E; ++e) total += s[e] = std::exp(z[n][e]);
    for (int e = 0; e < E; ++e) s[e] /= total;
    for (int j = 0; j < K; ++j) sigma += s[c[j]];
    for (int j = 0; j < K; ++j) {
      CHECK(choice.plan.gate[choice.plan.slot[n * K + j]] == Approx(s[c[j]] / sigma).epsilon(1e-14));
      mean += g[j] * s[c[j]] / sigma;
    }
    // ds of selected experts = (dg - <dg, G>) / sigma, then the softmax backward over all experts
    double ds[E] = {}, inner = 0;
    for (int j = 0; j < K; ++j) ds[c[j]] = (g[j] - mean) / sigma;
    for (int e = 0; e < E; ++e) inner += ds[e] * s[e];
    for (int e = 0; e < E; ++e) CHECK(choice.dz[n][e] == Approx(s[e] * (ds[e] - inner)).margin(1e-14));
  }
}

TEST_CASE(
    "probability gates are the softmax over all, and logits that are not selected have a gradient, too") {
  const auto z = random_tokens<E, double>(tokens, 4);
  Choice<ProbabilityGates> choice(z, pass);
  Buffer<double> d_slot(tokens * K);
  d_slot.fill(0);
  d_slot[choice.plan.slot[0]] = 1;
  choice.backward({.d_gate = d_slot.data()}, pass);
  double total = 0;
  for (int e = 0; e < E; ++e) total += std::exp(z[0][e]);
  const int first = choice.tape.chosen[0];
  CHECK(choice.plan.gate[choice.plan.slot[0]] == Approx(std::exp(z[0][first]) / total).epsilon(1e-14));
  for (int e = 0; e < E; ++e) CHECK(choice.dz[0][e] != 0);
  for (int e = 0; e < E; ++e) CHECK(choice.dz[1][e] == 0);
}

TEST_CASE("rows of the balance gradient sum to zero, rows of the z-loss gradient do not") {
  const auto z = random_tokens<E, double>(tokens, 5);
  const Buffer<double> nothing(tokens * K);
  const double d_mean[E] = {0.1, -0.4, 0.3, 2, 0};
  Choice<RenormalisedGates> choice(z, pass);
  choice.backward({nothing.data(), d_mean, 0}, pass);
  for (Index n = 0; n < tokens; ++n) {
    CHECK(row_sum(choice.dz, n) == Approx(0).margin(1e-15));
    CHECK(std::abs(choice.dz[n][3]) > 1e-3);
  }
  choice.backward({nothing.data(), nullptr, 0.1}, pass);
  for (Index n = 0; n < tokens;
       ++n)  // the derivative of 0.1 / N lse^2 in the direction (1, 1, ...) is 0.2 / N lse
    CHECK(row_sum(choice.dz, n) == Approx(0.2 / tokens * *choice.tape.lse[n]).epsilon(1e-13));
}

TEST_CASE("padding is not routed, has no gradient, and does not change other tokens' gates") {
  const Index lengths[1] = {4};
  const Pass padded{.shape = {1, tokens}, .lengths = lengths};
  const auto z = random_tokens<E, double>(tokens, 6);
  Choice<RenormalisedGates> all(z, pass), some(z, padded);
  CHECK(some.plan.slot_count() == 4 * K);
  for (Index pair = 0; pair < tokens * K; ++pair) {
    if (pair >= 4 * K)
      CHECK(some.plan.slot[pair] == no_slot);
    else
      CHECK(some.plan.gate[some.plan.slot[pair]] == all.plan.gate[all.plan.slot[pair]]);
  }
  const Buffer<double> ones = [] {
    Buffer<double> b(tokens * K);
    b.fill(1);
    return b;
  }();
  const double d_mean[E] = {1, 2, 3, 4, 5};
  some.backward({ones.data(), d_mean, 1}, padded);
  for (Index n = 4; n < tokens; ++n)
    for (int e = 0; e < E; ++e) CHECK(some.dz[n][e] == 0);
}

TEST_CASE("an expert that is not allowed is never selected, even if fewer than K are allowed") {
  const auto z = random_tokens<E, double>(tokens, 7);
  const bool three[E] = {true, false, true, false, true}, two[E] = {false, true, false, false, true};
  RoutedPass some(pass, {.allowed = three});
  const Choice<RenormalisedGates> first(z, some);
  CHECK(first.plan.load(1) == 0);
  CHECK(first.plan.load(3) == 0);
  CHECK(first.plan.slot_count() == tokens * 3);
  for (Index n = 0; n < tokens; ++n) CHECK(first.tape.score[n][1] == 0);
  some.context.allowed = two;
  Choice<RenormalisedGates> second(z, some);
  CHECK(second.plan.slot_count() == tokens * 2);
  CHECK(second.plan.load(1) == tokens);
  CHECK(second.plan.load(4) == tokens);
  Buffer<double> d_slot(tokens * 2);
  d_slot.fill(1);
  second.backward({d_slot.data(), nullptr, 0.1}, some);
  for (Index n = 0; n < tokens; ++n) {
    const double sum =
        second.plan.gate[second.plan.slot[n * K]] + second.plan.gate[second.plan.slot[n * K + 1]];
    CHECK(sum == Approx(1).epsilon(1e-14));
    for (const int e : {0, 2, 3}) CHECK(second.dz[n][e] == 0);
    CHECK(std::isfinite(second.dz[n][1]));
  }
}

TEST_CASE("capacity counts pairs of tokens that are not padding, and a dropped pair's gate has no gradient") {
  Tokens<E, double> z(tokens);  // ties: every token selects experts 0, 1, 2
  Pass limited = pass;
  limited.options.capacity_factor = 1;  // 7 * 3 / 5 = 4 tokens for each expert
  Choice<ProbabilityGates> choice(z, limited);
  CHECK(choice.plan.slot_count() == 12);
  CHECK(choice.plan.dropped() == 9);
  Buffer<double> d_slot(12);
  d_slot.fill(1);
  choice.backward({.d_gate = d_slot.data()}, limited);
  CHECK(choice.dz[3][0] != 0);
  for (int e = 0; e < E; ++e) CHECK(choice.dz[4][e] == 0);
  const Index lengths[1] = {4};
  limited.lengths = lengths;
  const Choice<ProbabilityGates> padded(z, limited);  // 4 * 3 / 5 = 2
  CHECK(padded.plan.load(0) == 2);
}

TEST_CASE("NaN logits give valid and different experts, and NaN gates") {
  auto z = random_tokens<E, double>(tokens, 8);
  for (int e = 0; e < E; ++e) z[2][e] = std::numeric_limits<double>::quiet_NaN();
  z[4][1] = std::numeric_limits<double>::quiet_NaN();
  const Choice<RenormalisedGates> choice(z, pass);
  CHECK(choice.plan.slot_count() == tokens * K);
  for (Index n = 0; n < tokens; ++n) {
    const int* c = choice.tape.chosen.data() + n * K;
    CHECK(std::set<int>(c, c + K).size() == K);
    for (int j = 0; j < K; ++j) CHECK((c[j] >= 0 && c[j] < E));
  }
  CHECK(std::isnan(choice.plan.gate[choice.plan.slot[2 * K]]));
  CHECK(std::isnan(*choice.tape.lse[2]));
  CHECK(std::isnan(*choice.tape.lse[4]));
  CHECK(std::isfinite(*choice.tape.lse[3]));
}
