#pragma once
// Routing plan: the (token, choice) pairs of a pass, sorted by expert. Every rule that routes whole tokens
// fills one: top-k, expert choice, dense MoE, hash. A slot is a row of buffers that all experts share.
#include <moegpt/routing/expert_slots.hpp>
#include <moegpt/routing/routing_context.hpp>

#include <limits>
#include <string>

namespace moegpt {
inline namespace MOEGPT_BUILD {

inline constexpr int no_expert = -1;  // in a table of chosen experts: this choice has none
inline constexpr Index no_slot = -1;  // in RoutingPlan::slot: the pair was not requested, or dropped

// Whether entry `pair` of chosen [tokens, choices] is an expert. std::invalid_argument unless it is an expert
// or no_expert.
template <class Expert>
bool has_expert(const Expert* chosen, Index pair, int choices, int experts) {
  const Expert e = chosen[pair];
  if (e >= 0 && e < experts) return true;
  check(e == no_expert, "routing: choice ", pair % choices, " of token ", pair / choices, " is expert ", e,
        ", expected 0 .. ", experts - 1, ", or no_expert");
  return false;
}

template <class T>
struct RoutingPlan {
  int experts = 0;
  int choices = 0;  // maximum number of experts of a token
  Index tokens = 0;
  Buffer<Index> offset;           // [experts + 1]       expert e owns slots [offset[e], offset[e + 1])
  Buffer<Index> token;            // [slots]             the slot's token
  Buffer<int> choice;             // [slots]             the slot's choice, 0 .. choices - 1
  Buffer<T> gate;                 // [slots]             factor of the expert's output
  Buffer<Index> slot;             // [tokens, choices]   of the pair, or no_slot
  Buffer<Index> wanted;           // [experts]           requested pairs, before capacity
  DropRule drop{};                // both set by the mixture, from the router specification
  Index max_slots = PTRDIFF_MAX;  // limit of slot_count(), if less than tokens * choices

  Index slot_count() const { return offset[experts]; }
  Rows rows(int e) const { return {offset[e], offset[e + 1] - offset[e]}; }
  Index load(int e) const { return offset[e + 1] - offset[e]; }
  Index dropped() const {  // pairs
    Index n = 0;
    for (Index w : wanted) n += w;
    return n - slot_count();
  }

  // For a pool of experts: the slots of each expert, and the rows of x [tokens, D] at all slots, not copied.
  ExpertSlots layout() const { return {offset.data(), token.data(), choice.data(), choices}; }
  template <int D, class Number>
  auto at_slots(TokensView<D, Number> x) const {
    return Gathered<D, std::remove_const_t<Number>>(x, token.data(), slot_count());
  }

  // Memory for all pairs of `tokens_` tokens, at most max_slots slots.
  void resize(Index tokens_, int choices_, int experts_) {
    tokens = tokens_;
    choices = choices_;
    experts = experts_;
    const Index pairs = tokens * choices, slot_count = std::min(max_slots, pairs);
    offset.resize(experts + 1);
    wanted.resize(experts);
    token.resize(std::max(slot_count, drop.order == Drop::probability ? pairs : tokens));  // also scratch
    choice.resize(slot_count);
    gate.resize(slot_count);
    slot.resize(pairs);
  }

  // Computes the plan from chosen [tokens, choices], each an expert or no_expert, and their gates [tokens,
  // choices]. A stable counting sort: the slots of an expert are in token order. Under a capacity the pairs
  // of each capacity group claim slots in the order of `drop`; a pair that finds its expert full is dropped.
  // std::invalid_argument for a capacity below one slot (check_capacity) and for an entry that is neither an
  // expert nor no_expert.
  void assign(const int* chosen, const T* pair_gate, const Pass& pass) {
    const double factor = pass.options.capacity_factor;
    check(factor >= 0 && std::isfinite(factor), "capacity: capacity_factor is ", factor,
          ": it must be a number above 0, or 0 for no limit");
    if (factor == 0) return assign(chosen, pair_gate, 0);
    check_capacity("capacity_factor", factor, drop, choices, experts, pass);
    if (drop.order == Drop::token_order && drop.group == Group::batch)
      return assign(chosen, pair_gate, capacity_of(routed_tokens(pass), pass));
    count(chosen);  // checks all entries before they index memory
    const Groups groups{drop.group, pass.shape};
    for (Index g = 0; g < groups.size(); ++g) drop_over_capacity(groups[g], chosen, pair_gate, pass);
    sort(slot.data(), pair_gate, 0);
    count(chosen);
  }
  // The same with a limit of the router's own, `capacity` slots per expert in token order; 0: no limit. Only
  // for router specifications with Drop::never, because pass.options.capacity_factor is not applied.
  void assign(const int* chosen, const T* pair_gate, Index capacity) { sort(chosen, pair_gate, capacity); }

 private:
  Index capacity_of(Index competing, const Pass& pass) const {
    return moegpt::capacity_of(competing, pass.options.capacity_factor, choices, experts, drop.rounding,
                               pass.options.min_capacity);
  }
  template <class Expert>
  void count(const Expert* chosen) {
    for (int e = 0; e < experts; ++e) wanted[e] = 0;
    for (Index pair = 0; pair < tokens * choices; ++pair)
      if (has_expert(chosen, pair, choices, experts)) ++wanted[chosen[pair]];
  }
  // `chosen` may be `slot`: each entry is read before it is written.
  template <class Expert>
  void sort(const Expert* chosen, const T* pair_gate, Index capacity) {
    count(chosen);
    offset[0] = 0;
    for (int e = 0; e < experts; ++e)
      offset[e + 1] = offset[e] + (capacity > 0 && wanted[e] > capacity ? capacity : wanted[e]);
    check(slot_count() <= gate.size(), "routing plan: the tokens fill ", slot_count(),
          " slots, but there is room for ", gate.size(),
          ": let the router's max_slots(pass) return the most that they can fill");
    for (int e = 0; e < experts; ++e) wanted[e] = offset[e];  // temporarily: the next free slot of e
    for (Index n = 0; n < tokens; ++n)
      for (int j = 0; j < choices; ++j) {
        const Index pair = n * choices + j;
        const Expert e = chosen[pair];
        slot[pair] = no_slot;
        if (e == no_expert) continue;
        const Index s = wanted[e]++;
        if (s >= offset[e + 1]) continue;  // over capacity
        slot[pair] = s;
        token[s] = n;
        choice[s] = j;
        gate[s] = pair_gate[pair];
      }
    for (int e = 0; e < experts; ++e) wanted[e] -= offset[e];
  }

  T best_gate(Index n, const int* chosen, const T* pair_gate) const {
    T best = std::numeric_limits<T>::lowest();
    for (Index pair = n * choices; pair < (n + 1) * choices; ++pair)
      if (chosen[pair] != no_expert && pair_gate[pair] > best) best = pair_gate[pair];
    return best;
  }
  // Stores in slot[pair] the expert of the pair, or no_expert if it is dropped. `offset` and `token`, which
  // are not computed yet, are scratch.
  [[gnu::noinline]] void drop_over_capacity(const TokenGroup& group, const int* chosen, const T* pair_gate,
                                            const Pass& pass) {
    Index* free = offset.data();
    Index* order = token.data();
    std::fill_n(free, experts, capacity_of(routed_tokens(group, pass), pass));
    auto claim = [&](Index pair) {
      const int e = chosen[pair];
      slot[pair] = e != no_expert && free[e]-- > 0 ? e : no_expert;
    };
    if (drop.order == Drop::token_order) {
      for (Index i = 0; i < group.count; ++i)
        for (int j = 0; j < choices; ++j) claim(group[i] * choices + j);
    } else if (drop.order == Drop::probability) {
      const Index pairs = group.count * choices;
      for (Index i = 0; i < pairs; ++i) order[i] = group[i / choices] * choices + i % choices;
      sort_descending(order, pairs, pairs, [&](Index pair) { return pair_gate[pair]; });
      for (Index i = 0; i < pairs; ++i) claim(order[i]);
    } else {
      for (Index i = 0; i < group.count; ++i) order[i] = group[i];
      if (drop.order == Drop::batch_prioritised)
        sort_descending(order, group.count, group.count,
                        [&](Index n) { return best_gate(n, chosen, pair_gate); });
      for (int j = 0; j < choices; ++j)
        for (Index i = 0; i < group.count; ++i) claim(order[i] * choices + j);
    }
  }
};

// Checks the plan that a router computed, in O(experts): shape, allowed experts, padding, capacity, memory.
// std::invalid_argument with the router's name(), what was found and what the router should do.
template <class T>
[[gnu::noinline]] void check_plan(const RoutingPlan<T>& plan, int experts, int choices, const DropRule& rule,
                                  std::string (*name)(), const Pass& pass) {
  const auto demand = [&](bool holds, const auto&... parts) {
    if (!holds) [[unlikely]]
      reject(name(), ": ", parts...);
  };
  demand(plan.experts == experts && plan.choices == choices && plan.tokens == pass.tokens() &&
             plan.offset.size() == experts + 1 && plan.wanted.size() == experts,
         "its plan is for ", plan.tokens, " tokens with ", plan.choices, " choices among ", plan.experts,
         " experts, but the mixture has ", pass.tokens(), " tokens, ", choices, " choices and ", experts,
         " experts: call plan.resize(pass.tokens(), active, experts)");
  const Index routed = routed_tokens(pass);
  const bool limited = rule.order != Drop::never && pass.options.capacity_factor > 0;
  const Index most = limited ? most_load(rule, choices, experts, pass) : routed;
  Index wanted = 0;
  for (int e = 0; e < experts; ++e) {
    const Index load = plan.load(e);
    wanted += plan.wanted[e];
    demand((e > 0 || plan.offset[0] == 0) && load >= 0 && load <= plan.wanted[e], "its plan gives expert ", e,
           " the slots ", plan.offset[e], " .. ", plan.offset[e + 1], " and ", plan.wanted[e],
           " pairs: let plan.assign(chosen, gate, pass) fill it");
    demand(is_allowed(e, pass) || plan.wanted[e] == 0, "it chose expert ", e, " for ", plan.wanted[e],
           " tokens, but that expert is not allowed: choose e only where is_allowed(e, pass)");
    demand(plan.wanted[e] <= routed, "it chose expert ", e, " ", plan.wanted[e], " times for ", routed,
           " tokens that are not padding: choose nothing where pass.is_padding(n), and no expert twice for a "
           "token");
    demand(load <= most, "expert ", e, " takes ", load, " tokens, but under capacity_factor ",
           pass.options.capacity_factor, " at most ", most,
           ": call plan.assign(chosen, gate, pass), or say that its "
           "limits are its own: static constexpr DropRule drop{.order = Drop::never} beside its experts");
  }
  demand(wanted <= routed * choices, "it chose ", wanted, " experts, but ", routed,
         " tokens that are not padding have ", choices,
         " choices each: choose nothing where pass.is_padding(n)");
  demand(plan.slot.size() == plan.tokens * choices && plan.token.size() >= plan.slot_count() &&
             plan.choice.size() >= plan.slot_count() && plan.gate.size() >= plan.slot_count(),
         "its plan has less memory than slots: call plan.resize(pass.tokens(), active, experts)");
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
