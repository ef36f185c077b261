#pragma once
// Which pairs a full expert drops is part of a router's type: Dropping<TopKRouter<8, 2>, Drop::slot_major>. How many
// it takes is a run-time option (ModelOptions::capacity_factor and min_capacity; 0, the default: all).
#include <moegpt/moe/router.hpp>

namespace moegpt::inline MOEGPT_BUILD {

// Any recipe that assigns under a capacity, with the order in which pairs ask for a place and who competes. In token
// order nothing depends on later tokens, and among contemporaries nothing can; every other rule looks ahead.
//   GShard, ST-MoE    Drop::slot_major, Group::sequence; their capacity has no factor K: divide the factor by K
//   V-MoE             Drop::batch_prioritised
//   Megatron          Drop::probability, Group::batch, Round::up
//   HF Switch         Drop::token_order, Group::sequence; a constant capacity: a tiny factor, and min_capacity
template <Router Recipe, Drop Order, Group Among = Group::batch, Round Rounding = Round::down>
struct Dropping : Recipe {
  using OfInner = typename Recipe::template For<4, float>;
  static_assert(capacity_rule_of<OfInner>().applies,
                "Dropping: this router never drops: it has no use for a drop rule");
  static_assert(!capacity_rule_of<OfInner>().by_type,
                "Dropping: this router has a drop rule already, which would be the only one that counts");
  static constexpr bool keeps_order = Order == Drop::token_order || Among == Group::position;
  static constexpr bool causal = Recipe::causal && keeps_order;

  static std::string text() requires requires { Recipe::text(); } {
    constexpr const char* orders[] = {"token_order", "slot_major", "batch_prioritised", "probability"};
    constexpr const char* groups[] = {"batch", "sequence", "position"};
    std::string text = "Dropping<" + Recipe::text() + ", Drop::" + orders[static_cast<int>(Order)];
    if (Among != Group::batch || Rounding != Round::down)
      (text += ", Group::") += groups[static_cast<int>(Among)];
    if (Rounding != Round::down) text += ", Round::up";
    return text + ">";
  }

  template <int D, class T = float>
  struct For : Recipe::template For<D, T> {
    using Inner = typename Recipe::template For<D, T>;
    static constexpr CapacityRule capacity_rule{true, Among, Rounding, true};
    static constexpr bool drop_rule_looks_ahead = !keeps_order;   // for the message of a decoder that refuses it

    void forward(In<D, T> x, RoutingPlan<T>& plan, typename Inner::Tape& tape, const Pass& pass) const {
      Pass inner = pass;
      inner.drop = Order;
      inner.capacity_group = Among;
      inner.rounding = Rounding;
      Inner::forward(x, plan, tape, inner);
    }
  };
};

}  // namespace moegpt::inline MOEGPT_BUILD
