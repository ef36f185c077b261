#pragma once
// Inputs and routes of a router, for check_router, and the comparison of routes bit by bit.
#include <moegpt/testing/verify_plan.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace testing {

// Tokens and their ids.
template <int D>
struct RouterInput {
  Tokens<D, float> x;
  Buffer<int> ids;

  explicit RouterInput(Index tokens) : x(tokens), ids(tokens) {}
  void draw(Index n, double spread, int vocab, Rng& rng) {
    for (int i = 0; i < D; ++i) x[n][i] = static_cast<float>(2 * spread * rng.normal());
    ids[n] = static_cast<int>(rng.below(static_cast<std::uint64_t>(vocab)));
  }
  void copy(Index to, const RouterInput& from, Index n) {
    std::copy_n(from.x[n], D, x[to]);
    ids[to] = from.ids[n];
  }
};

// What a router's forward returns for a batch.
template <class Recipe, int D>
struct Route {
  RoutingPlan<float> plan;
  typename Recipe::template For<D, float>::Tape tape;
  Buffer<int> expert;  // [tokens, K] of the slot; negative: none
  Route() { plan.drop = drop_rule_of<Recipe>(); }
};

inline std::string text_of_expert(int expert) {
  return expert < 0 ? "none" : "expert " + std::to_string(expert);
}
// All digits, so that different numbers have different texts.
inline std::string digits(float x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", static_cast<double>(x));
  return text;
}

// Fails unless token i of route a and token k of route b have the same experts, gates, scores and lse, bit
// for bit. `token`, in_a, in_b and advice are parts of the message.
template <class Recipe, int D>
void compare_routes(const std::string& token, const Route<Recipe, D>& a, Index i, const char* in_a,
                    const Route<Recipe, D>& b, Index k, const std::string& in_b, const char* advice) {
  constexpr int E = Recipe::experts, K = Recipe::active;
  const auto same = [&](float u, float v, const auto&... what) {
    if (std::memcmp(&u, &v, sizeof u) != 0)
      fail(token, what..., " is ", digits(u), in_a, ", but ", digits(v), in_b, ": ", advice);
  };
  for (int j = 0; j < K; ++j) {
    const int e = a.expert[i * K + j], f = b.expert[k * K + j];
    if (e != f)
      fail(token, "choice ", j, " is ", text_of_expert(e), in_a, ", but ", text_of_expert(f), in_b, ": ",
           advice);
    if (e < 0) continue;
    same(a.plan.gate[a.plan.slot[i * K + j]], b.plan.gate[b.plan.slot[k * K + j]], "the gate of expert ", e);
  }
  for (int e = 0; e < E; ++e) same(a.tape.score[i][e], b.tape.score[k][e], "the score of expert ", e);
  same(*a.tape.lse[i], *b.tape.lse[k], "lse");
}

// Fails unless gates, scores and lse of a route without padding are finite, and some token has an expert.
template <class Recipe, int D>
void check_finite(const std::string& when, const Route<Recipe, D>& route) {
  const RoutingPlan<float>& plan = route.plan;
  if (plan.slot_count() == 0) fail(when, "no token is sent to any expert: there is nothing to check");
  const auto demand_finite = [&](float value, const char* what, Index n) {
    if (!std::isfinite(value)) fail(when, what, " of token ", n, " is ", value, ", expected a finite number");
  };
  for (Index s = 0; s < plan.slot_count(); ++s) demand_finite(plan.gate[s], "a gate", plan.token[s]);
  for (Index n = 0; n < plan.tokens; ++n) {
    for (int e = 0; e < Recipe::experts; ++e) demand_finite(route.tape.score[n][e], "a score", n);
    demand_finite(*route.tape.lse[n], "lse", n);
  }
}

}  // namespace testing
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
