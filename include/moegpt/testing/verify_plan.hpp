#pragma once
// Checks of routing plans that hold for every router, for check_router and gradcheck. The first fault found
// throws a Failure.
#include <moegpt/routing/router.hpp>

#include <algorithm>
#include <string>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace testing {

// What was found and what to do.
struct Failure {
  std::string text;
};
template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(const Parts&... parts) {
  Failure found;
  (append_text(found.text, parts), ...);
  throw found;
}
// The text of the Failure that checks() throws; empty if it throws none.
template <class F>
std::string failure_of(F&& checks) {
  try {
    checks();
  } catch (const Failure& found) {
    return found.text;
  }
  return {};
}

// Calls f(pass) with passes that differ from `pass`, for the values that they leave in memory: one with one
// more sequence, without padding, with a key if `pass` has none; the same with much padding and a capacity;
// one token.
template <class F>
void for_each_other_pass(const Pass& pass, F&& f) {
  const Shape larger{pass.shape.batch + 1, pass.shape.length};
  RoutingContext routing = routing_of(pass);
  const bool* allowed = routing.allowed;
  std::vector<int> ids(static_cast<std::size_t>(larger.tokens()));
  for (Index i = 0; routing.ids && i < std::ssize(ids); ++i)
    ids[static_cast<std::size_t>(i)] = routing.ids[i % pass.tokens()];
  std::vector<Index> lengths(static_cast<std::size_t>(larger.batch), 1);
  lengths[0] = 0;
  Pass other = pass;
  other.shape = larger;
  other.lengths = other.first_positions = nullptr;  // they have the given shape, and so do
  other.documents = nullptr;
  other.routing = &routing;
  routing.ids = ids.data();
  routing.allowed = nullptr;
  other.partial = true;
  other.key = Key{7};
  other.dropout = routing.objective.balance = routing.objective.load = 0.25;
  if (pass.key) other.key.reset();
  f(other);
  other.lengths = lengths.data();
  other.options.capacity_factor = 0.5;
  routing.allowed = allowed;
  f(other);
  other.shape = {1, 1};
  other.lengths = nullptr;
  f(other);
}

// Throws a Failure unless the plan is consistent and fits rule and pass. chosen: the choices on the router's
// tape, or null.
template <class T>
[[gnu::noinline]] void verify_plan(const std::string& when, const RoutingPlan<T>& plan,
                                   const Buffer<int>* chosen, const DropRule& rule, const Pass& pass) {
  const auto demand = [&](bool holds, const auto&... parts) {
    if (!holds) fail(when, parts...);
  };
  const Index N = plan.tokens, pairs = N * plan.choices;
  const int E = plan.experts, K = plan.choices;
  demand(N == pass.tokens(), "the plan is inconsistent: it is for ", N, " tokens, the pass has ",
         pass.tokens());
  demand(plan.offset.size() == E + 1 && plan.wanted.size() == E && plan.slot.size() == pairs &&
             plan.offset[0] == 0,
         "the plan is inconsistent: its tables are not those of plan.resize(pass.tokens(), active, experts)");
  for (int e = 0; e < E; ++e)
    demand(plan.load(e) >= 0 && plan.offset[e + 1] <= pairs && plan.wanted[e] >= plan.load(e),
           "the plan is inconsistent: the slots of expert ", e,
           " are not below those of the next, or it has "
           "more of them than it was wanted");
  demand(std::min({plan.token.size(), plan.choice.size(), plan.gate.size()}) >= plan.slot_count(),
         "the plan is inconsistent: it has less memory than slots: call plan.resize(pass.tokens(), active, "
         "experts)");
  demand(!chosen || chosen->size() == pairs, "the tape says has_choices, but its `chosen` has ",
         chosen ? chosen->size() : 0, " numbers, not ", N, " tokens * ", K, " choices");
  Index sent = 0;
  for (Index pair = 0; pair < pairs; ++pair) sent += plan.slot[pair] != no_slot;
  demand(sent == plan.slot_count(), "the plan is inconsistent: plan.slot names ", sent, " slots of ",
         plan.slot_count());
  const bool limited = rule.order != Drop::never && pass.options.capacity_factor > 0;
  const Index most = limited ? most_load(rule, K, E, pass) : pairs;
  for (int e = 0; e < E; ++e) {
    demand(is_allowed(e, pass) || plan.wanted[e] == 0, "expert ", e,
           " gets tokens, but it is not allowed: choose e only where is_allowed(e, pass)");
    demand(plan.load(e) <= most, "capacity is ignored: expert ", e, " takes ", plan.load(e),
           " tokens where at most ", most, " fit: call plan.assign(chosen, gate, pass)");
    Index before = -1;  // the token of the slot before
    for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s) {
      const Index n = plan.token[s], j = plan.choice[s];
      demand(n >= 0 && n < N && j >= 0 && j < K && plan.slot[n * K + j] == s,
             "the plan is inconsistent: slot ", s, " is of token ", n, " and choice ", j,
             ", but plan.slot says otherwise");
      demand(!pass.is_padding(n), "padding is routed: token ", n, " goes to expert ", e,
             ": choose nothing where pass.is_padding(n)");
      const int said = chosen ? (*chosen)[n * K + j] : e;
      demand(said == e, "the tape says that choice ", j, " of token ", n, " is expert ", said,
             ", but its slot is one of expert ", e);
      demand(n != before, "token ", n, " chose expert ", e, " twice");
      demand(n > before, "the slots of expert ", e, " are not in token order: token ", n, " stands after ",
             before, ": call plan.assign(chosen, gate, pass)");
      before = n;
    }
  }
}

// Verifies the plans of a router for the given pass, with a capacity, without its most loaded experts, and
// with padding.
template <RouterOf R>
void verify_plans(const R& router, const DropRule& rule, In<R::dim, typename R::Scalar> x,
                  const Pass& given) {
  RoutingPlan<typename R::Scalar> plan;
  plan.drop = rule;
  typename R::Tape tape;
  const auto verify = [&](const char* when, const Pass& pass) {
    router.forward(x, plan, tape, pass);
    const Buffer<int>* chosen = nullptr;
    if constexpr (HasChoices<typename R::Tape>) chosen = &tape.chosen;
    verify_plan(when, plan, chosen, rule, pass);
  };
  verify("", given);
  const int E = plan.experts, K = plan.choices;
  Pass limited = given;
  limited.options.capacity_factor = 0.4;  // less than half of what balanced experts need
  limited.options.min_capacity = 1;
  verify("under a capacity factor of 0.4: ", limited);

  Pass some = given;
  std::vector<Index> by_load(static_cast<std::size_t>(E));
  for (int e = 0; e < E; ++e) by_load[static_cast<std::size_t>(e)] = e;
  router.forward(x, plan, tape, given);
  sort_descending(by_load.data(), E, E, [&](Index e) { return plan.wanted[e]; });
  Buffer<bool> allowed(E);
  for (int e = 0; e < E; ++e) allowed[e] = is_allowed(e, given);
  int forbidden = static_cast<int>(std::count(allowed.begin(), allowed.end(), false));
  for (const Index e : by_load)
    if (const int least = K < E ? K : 1; allowed[e] && E - forbidden > std::max(least, E / 2)) {
      allowed[e] = false;
      ++forbidden;
    }
  RoutingContext routing = routing_of(given);
  routing.allowed = allowed.data();
  some.routing = &routing;
  if (E > 1) verify("without some experts: ", some);

  Pass padded = given;
  Buffer<Index> lengths(given.shape.batch);
  for (Index b = 0; b < given.shape.batch; ++b)
    lengths[b] = std::max<Index>(1, given.length_of(b) / (b % 2 == 0 ? 2 : 3));
  padded.lengths = lengths.data();
  verify("with padding: ", padded);
}

}  // namespace testing
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
