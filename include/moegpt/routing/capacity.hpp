#pragma once
// Capacity: the maximum number of slots of an expert per capacity group of tokens; and the drop policies.
#include <moegpt/layers/pass.hpp>

#include <algorithm>
#include <cmath>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Capacity group: tokens that compete for slots. Also the balance group: batch or sequence.
enum class Group {
  batch,
  sequence,
  position,  // the same position of every sequence: competition within it is causal
};

// The order in which (token, expert) pairs claim the slots of their experts; a pair that finds its expert
// full is dropped.
enum class Drop {
  token_order,        // by token (makeMoE, megablocks); the only causal order for a batch or sequence
  slot_major,         // all first choices, then all second ones, ... (GShard, Mesh-TensorFlow, Tutel)
  batch_prioritised,  // likewise, tokens by descending largest gate (V-MoE)
  probability,        // pairs by descending gate (Megatron)
  never,              // the router limits its experts itself: capacity_factor does not apply
};

// Rounding of the capacity to an integer (up: Megatron).
enum class Round { down, up };

// Drop policy: a constant of a router specification, `static constexpr DropRule drop`. Dropping<...> sets it.
struct DropRule {
  Drop order = Drop::token_order;
  Group group = Group::batch;
  Round rounding = Round::down;
  // Whether dropping a pair never depends on a later token.
  constexpr bool causal() const {
    return order == Drop::token_order || order == Drop::never || group == Group::position;
  }
};
template <class Recipe>
constexpr DropRule drop_rule_of() {
  if constexpr (requires { Recipe::drop; })
    return Recipe::drop;
  else
    return {};
}
// Whether a router specification has a drop order of its own, which a wrapper would hide.
template <class Recipe>
inline constexpr bool sets_drop_rule = requires { requires Recipe::drop.order != Drop::never; };

// A capacity group: tokens first + i step, i in 0 .. count - 1.
struct TokenGroup {
  Index first, step, count;
  Index operator[](Index i) const { return first + i * step; }
};

// The capacity groups of a pass, all of one size.
struct Groups {
  Group kind;
  Shape shape;
  Index size() const {
    return kind == Group::batch ? 1 : kind == Group::sequence ? shape.batch : shape.length;
  }
  TokenGroup operator[](Index g) const {
    if (kind == Group::sequence) return {g * shape.length, 1, shape.length};
    if (kind == Group::position) return {g, shape.length, shape.batch};
    return {0, 1, shape.tokens()};
  }
};

// Tokens that are not padding.
inline Index routed_tokens(const Pass& pass) {
  Index n = 0;
  for (Index b = 0; b < pass.shape.batch; ++b) n += pass.length_of(b);
  return n;
}
inline Index routed_tokens(const TokenGroup& group, const Pass& pass) {
  Index n = 0;
  for (Index i = 0; i < group.count; ++i) n += !pass.is_padding(group[i]);
  return n;
}

// Slots per expert, floor(factor * pairs / experts) or its ceiling, at least 1; 0: no limit.
// std::invalid_argument for a factor or number of pairs that is negative or not finite, and for experts < 1.
inline Index expert_capacity(double factor, double pairs, int experts, Round round = Round::down) {
  check(factor >= 0 && std::isfinite(factor), "capacity: the factor is ", factor,
        ": it must be a number above 0, or 0 for no limit");
  check(pairs >= 0 && std::isfinite(pairs) && experts >= 1, "capacity: ", pairs, " pairs and ", experts,
        " experts: 0 or more pairs and at least 1 expert are expected");
  if (factor == 0) return 0;
  const double exact = pairs / experts * factor;
  if (exact >= 0x1p62) return Index{1} << 62;  // the conversion to Index would overflow
  const auto capacity = static_cast<Index>(round == Round::up ? std::ceil(exact) : exact);
  return capacity < 1 ? 1 : capacity;
}

// Slots per expert for a group of `tokens` tokens with `choices` experts each: at least 1 and `minimum`
// (ModelOptions::min_capacity), at most `tokens`.
[[gnu::noinline]] inline Index capacity_of(Index tokens, double factor, int choices, int experts,
                                           Round rounding, double minimum) {
  const Index capacity = expert_capacity(factor, static_cast<double>(tokens) * choices, experts, rounding);
  return std::min(tokens, std::max(capacity, static_cast<Index>(minimum)));
}

// The maximum load of an expert in the pass; with lengths and Group::position an upper bound of it.
[[gnu::noinline]] inline Index most_load(const DropRule& rule, int choices, int experts, const Pass& pass) {
  const auto of = [&](Index tokens) {
    return capacity_of(tokens, pass.options.capacity_factor, choices, experts, rule.rounding,
                       pass.options.min_capacity);
  };
  if (rule.group == Group::batch) return of(routed_tokens(pass));
  if (rule.group == Group::position) return pass.shape.length * of(pass.shape.batch);
  Index sum = 0;
  for (Index b = 0; b < pass.shape.batch; ++b) sum += of(pass.length_of(b));
  return sum;
}

// std::invalid_argument if the capacity of a full group is below one slot. The check depends on the shape
// only, so that no step fails because of its data: groups that padding shortens, and partial passes, have a
// capacity of at least 1.
[[gnu::noinline]] inline void check_capacity(const char* what, double factor, const DropRule& rule,
                                             int choices, int experts, const Pass& pass) {
  if (pass.partial || pass.options.min_capacity >= 1 || rule.rounding == Round::up) return;
  const Index tokens = Groups{rule.group, pass.shape}[0].count;
  const double exact = static_cast<double>(tokens) * choices / experts * factor;
  check(exact >= 1, "capacity: ", what, " ", factor, " gives an expert ", exact, " slots (", factor, " * ",
        tokens, " tokens * ", choices, " choices / ", experts, " experts), but at least 1 is needed: raise ",
        what, " to ", factor / exact,
        " or more, set min_capacity to 1 or more, or let more tokens share a capacity");
}

// Sorts indices i by descending value(i), only the first `limit` of them. Ties: the lower index first. NaN
// comes last.
template <class F>
void sort_descending(Index* indices, Index limit, Index count, F&& value) {
  const auto comes_first = [&](Index a, Index b) {
    const auto x = value(a), y = value(b);
    const bool x_is_nan = x != x, y_is_nan = y != y;
    if (x_is_nan || y_is_nan) return x_is_nan == y_is_nan ? a < b : y_is_nan;
    return x != y ? x > y : a < b;
  };
  if (limit < count)
    std::partial_sort(indices, indices + limit, indices + count, comes_first);
  else
    std::sort(indices, indices + count, comes_first);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
