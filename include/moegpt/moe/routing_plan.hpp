#pragma once
// The routing plan: who goes where, sorted by expert. One form for every rule that sends whole tokens: top-k,
// expert choice, capacity, dense, hashed. Experts share one slot-ordered buffer, and each owns its rows of it.
#include <moegpt/moe/expert_slots.hpp>
#include <moegpt/moe/routing_context.hpp>

#include <limits>
#include <string>

namespace moegpt::inline MOEGPT_BUILD {

template <class T>
struct RoutingPlan {
  int experts = 0;
  int choices = 0;           // most experts a token can have
  Index tokens = 0;
  Buffer<Index> offset;      // [experts + 1]       expert e owns slots [offset[e], offset[e + 1])
  Buffer<Index> token;       // [slots]             which token the slot is of
  Buffer<int> choice;        // [slots]             which of its token's choices the slot is
  Buffer<T> weight;          // [slots]             gate: how much of the expert's output returns
  Buffer<Index> slot;        // [tokens, choices]   where the pair went, or none
  Buffer<Index> wanted;      // [experts]           pairs chosen, before capacity
  DropRule drop{};           // set by the mixture, of the recipe's type, and so is
  Index places = PTRDIFF_MAX;   // the most slots that the tokens fill, where that is less than all their choices
  static constexpr Index none = -1;

  Index slot_count() const { return offset[experts]; }
  Rows rows(int e) const { return {offset[e], offset[e + 1] - offset[e]}; }
  Index load(int e) const { return offset[e + 1] - offset[e]; }
  Index dropped() const {
    Index n = 0;
    for (Index w : wanted) n += w;
    return n - slot_count();
  }

  // What a pool of experts is to do, and with which of [tokens, D] rows.
  ExpertSlots layout() const { return {offset.data(), token.data(), choice.data(), choices}; }
  template <int D, class Number>
  auto at_slots(TokensView<D, Number> x) const {
    return Gathered<D, std::remove_const_t<Number>>(x, token.data(), slot_count());
  }

  // Memory for the most that `tokens` tokens can need.
  void resize(Index tokens_, int choices_, int experts_) {
    tokens = tokens_;
    choices = choices_;
    experts = experts_;
    const Index pairs = tokens * choices, slot_count = std::min(places, pairs);
    offset.resize(experts + 1);
    wanted.resize(experts);
    token.resize(std::max(slot_count, drop.order == Drop::probability ? pairs : tokens));   // see keep_what_fits
    choice.resize(slot_count);
    weight.resize(slot_count);
    slot.resize(pairs);
  }

  // Builds the plan from chosen[token][choice], an expert or `none`, and the gate of each choice: a stable counting
  // sort, so that within an expert slots stand in token order. Under a capacity the pairs of each group claim
  // slots in the order of `drop`, and a pair that finds its expert full is dropped. Throws
  // std::invalid_argument for a capacity below one slot (check_capacity) and for an expert that does not exist.
  void assign(const int* chosen, const T* gate, const Pass& pass) {
    const double factor = pass.options.capacity_factor;
    check(factor >= 0 && std::isfinite(factor), "capacity: capacity_factor is ", factor,
          ": it must be a number above 0, or 0 for no limit");
    if (factor == 0) return assign(chosen, gate, 0);
    check_capacity("capacity_factor", factor, drop, choices, experts, pass);
    if (drop.order == Drop::token_order && drop.group == Group::batch)
      return assign(chosen, gate, capacity_of(routed_tokens(pass), pass));
    count(chosen);   // looks at all of them before they are numbers of places
    const Groups groups{drop.group, pass.shape};
    for (Index g = 0; g < groups.size(); ++g) keep_what_fits(groups[g], chosen, gate, pass);
    sort(slot.data(), gate, 0);
    count(chosen);
  }
  // With the router's own limit, in token order; 0: none. Only for recipes with Drop::never: it reads no pass.
  void assign(const int* chosen, const T* gate, Index capacity) { sort(chosen, gate, capacity); }

 private:
  Index capacity_of(Index competing, const Pass& pass) const {
    return moegpt::capacity_of(competing, pass.options.capacity_factor, choices, experts, drop.rounding,
                               pass.options.min_capacity);
  }
  template <class Expert>
  void count(const Expert* chosen) {
    for (int e = 0; e < experts; ++e) wanted[e] = 0;
    for (Index pair = 0; pair < tokens * choices; ++pair) {
      check(chosen[pair] < experts, "routing plan: choice ", pair % choices, " of token ", pair / choices,
            " is expert ", chosen[pair], ", expected 0 .. ", experts - 1, ", or below zero for none");
      if (chosen[pair] >= 0) ++wanted[chosen[pair]];
    }
  }
  // `chosen` may be `slot`, of which each number is read before it is written.
  template <class Expert>
  void sort(const Expert* chosen, const T* gate, Index capacity) {
    count(chosen);
    offset[0] = 0;
    for (int e = 0; e < experts; ++e)
      offset[e + 1] = offset[e] + (capacity > 0 && wanted[e] > capacity ? capacity : wanted[e]);
    check(slot_count() <= weight.size(), "routing plan: the tokens fill ", slot_count(),
          " slots, but there is room for ", weight.size(), ": let the router's places(pass) return the most that they can fill");
    for (int e = 0; e < experts; ++e) wanted[e] = offset[e];   // for a moment: the next free slot
    for (Index n = 0; n < tokens; ++n)
      for (int j = 0; j < choices; ++j) {
        const Index pair = n * choices + j;
        const Expert e = chosen[pair];
        slot[pair] = none;
        if (e < 0) continue;
        const Index s = wanted[e]++;
        if (s >= offset[e + 1]) continue;   // full
        slot[pair] = s;
        token[s] = n;
        choice[s] = j;
        weight[s] = gate[pair];
      }
    for (int e = 0; e < experts; ++e) wanted[e] -= offset[e];
  }

  T best_gate(Index n, const int* chosen, const T* gate) const {
    T best = std::numeric_limits<T>::lowest();
    for (Index pair = n * choices; pair < (n + 1) * choices; ++pair)
      if (chosen[pair] >= 0 && gate[pair] > best) best = gate[pair];
    return best;
  }
  // Leaves in slot[pair] the expert, or none. `offset` and `token` are not filled yet and lend their memory.
  [[gnu::noinline]] void keep_what_fits(const TokenGroup& group, const int* chosen, const T* gate, const Pass& pass) {
    Index* free = offset.data();
    Index* order = token.data();
    std::fill_n(free, experts, capacity_of(routed_tokens(group, pass), pass));
    auto claim = [&](Index pair) {
      const int e = chosen[pair];
      slot[pair] = e >= 0 && free[e]-- > 0 ? e : none;
    };
    if (drop.order == Drop::token_order) {
      for (Index i = 0; i < group.count; ++i)
        for (int j = 0; j < choices; ++j) claim(group[i] * choices + j);
    } else if (drop.order == Drop::probability) {
      const Index pairs = group.count * choices;
      for (Index i = 0; i < pairs; ++i) order[i] = group[i / choices] * choices + i % choices;
      sort_descending(order, pairs, pairs, [&](Index pair) { return gate[pair]; });
      for (Index i = 0; i < pairs; ++i) claim(order[i]);
    } else {
      for (Index i = 0; i < group.count; ++i) order[i] = group[i];
      if (drop.order == Drop::batch_prioritised)
        sort_descending(order, group.count, group.count, [&](Index n) { return best_gate(n, chosen, gate); });
      for (int j = 0; j < choices; ++j)
        for (Index i = 0; i < group.count; ++i) claim(order[i] * choices + j);
    }
  }
};

// What a mixture demands of the plan that a router hands it, in the time of a few numbers per expert. Throws
// std::invalid_argument with the router's name and what it should do; `name` is asked only then.
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
           " tokens that are not padding: choose nothing where pass.is_padding(n), and no expert twice for a token");
    demand(load <= most, "expert ", e, " takes ", load, " tokens, but under capacity_factor ",
           pass.options.capacity_factor, " at most ", most, ": call plan.assign(chosen, gate, pass), or say that its "
           "limits are its own: static constexpr DropRule drop{.order = Drop::never} beside its experts");
  }
  demand(wanted <= routed * choices, "it chose ", wanted, " experts, but ", routed, " tokens that are not padding have ",
         choices, " choices each: choose nothing where pass.is_padding(n)");
  demand(plan.slot.size() == plan.tokens * choices && plan.token.size() >= plan.slot_count() &&
             plan.choice.size() >= plan.slot_count() && plan.weight.size() >= plan.slot_count(),
         "its plan has less memory than slots: call plan.resize(pass.tokens(), active, experts)");
}

}  // namespace moegpt::inline MOEGPT_BUILD
