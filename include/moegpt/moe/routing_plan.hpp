#pragma once
// The routing plan: who goes where, sorted by expert. One form for every rule that sends whole tokens: top-k,
// expert choice, capacity, dense, hashed. Experts share one slot-ordered buffer, and each owns its rows of it.
#include <moegpt/layers/pass.hpp>

namespace moegpt::inline MOEGPT_BUILD {

// Tokens that are not padding.
inline Index routed_tokens(const Pass& pass) {
  Index n = 0;
  for (Index b = 0; b < pass.shape.batch; ++b) n += pass.length_of(b);
  return n;
}

// Slots per expert when `pairs` (token, expert) pairs are spread over E experts; 0: no limit.
inline Index expert_capacity(double factor, double pairs, int experts) {
  if (factor <= 0) return 0;
  const auto capacity = static_cast<Index>(pairs / experts * factor);
  return capacity < 1 ? 1 : capacity;
}

template <class T>
struct RoutingPlan {
  int experts = 0;
  int choices = 0;           // most experts a token can have
  Index tokens = 0;
  Buffer<Index> offset;      // [experts + 1]       expert e owns slots [offset[e], offset[e + 1])
  Buffer<Index> token;       // [slots]             whose copy lies in the slot
  Buffer<int> choice;        // [slots]             which of its token's choices the slot is
  Buffer<T> weight;          // [slots]             gate: how much of the expert's output returns
  Buffer<Index> slot;        // [tokens, choices]   where the pair went, or none
  Buffer<Index> wanted;      // [experts]           pairs chosen, before capacity
  static constexpr Index none = -1;

  Index slots() const { return offset[experts]; }
  Rows rows(int e) const { return {offset[e], offset[e + 1] - offset[e]}; }
  Index load(int e) const { return offset[e + 1] - offset[e]; }
  Index dropped() const {
    Index n = 0;
    for (Index w : wanted) n += w;
    return n - slots();
  }

  // Memory for the most that `tokens` tokens can need.
  void resize(Index tokens_, int choices_, int experts_) {
    tokens = tokens_;
    choices = choices_;
    experts = experts_;
    offset.resize(experts + 1);
    wanted.resize(experts);
    token.resize(tokens * choices);
    choice.resize(tokens * choices);
    weight.resize(tokens * choices);
    slot.resize(tokens * choices);
  }

  // Builds the plan from chosen[token][choice], an expert or `none`, and the gate of each choice. An expert that
  // is full (capacity > 0) takes the first `capacity` tokens in token order and drops the rest, which is the
  // only order of dropping that does not look into the future. A stable counting sort: within an expert slots
  // stand in token order.
  void assign(const int* chosen, const T* gate, const Pass& pass) {
    const double pairs = static_cast<double>(routed_tokens(pass)) * choices;
    assign(chosen, gate, expert_capacity(pass.options.capacity_factor, pairs, experts));
  }
  void assign(const int* chosen, const T* gate, Index capacity) {
    for (int e = 0; e < experts; ++e) wanted[e] = 0;
    for (Index pair = 0; pair < tokens * choices; ++pair)
      if (chosen[pair] >= 0) ++wanted[chosen[pair]];
    offset[0] = 0;
    for (int e = 0; e < experts; ++e)
      offset[e + 1] = offset[e] + (capacity > 0 && wanted[e] > capacity ? capacity : wanted[e]);
    for (int e = 0; e < experts; ++e) wanted[e] = offset[e];   // for a moment: the next free slot
    for (Index n = 0; n < tokens; ++n)
      for (int j = 0; j < choices; ++j) {
        const Index pair = n * choices + j;
        const int e = chosen[pair];
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
};

}  // namespace moegpt::inline MOEGPT_BUILD
