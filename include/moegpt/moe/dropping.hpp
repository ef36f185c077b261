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
  static_assert(drop_rule_of<Recipe>().order != Drop::never,
                "Dropping: this router never drops: it has no use for a drop rule");
  static_assert(!sets_drop_rule<Recipe>,
                "Dropping: this router has a drop rule already, which would be the only one that counts");
  static_assert(Order != Drop::never, "Dropping: Drop::never is for routers that limit their experts themselves");
  static constexpr DropRule drop{Order, Among, Rounding};
  static constexpr bool causal = Recipe::causal && drop.causal();

  static std::string text() requires requires { Recipe::text(); } {
    constexpr const char* orders[] = {"token_order", "slot_major", "batch_prioritised", "probability"};
    constexpr const char* groups[] = {"batch", "sequence", "position"};
    std::string text = "Dropping<" + Recipe::text() + ", Drop::" + orders[static_cast<int>(Order)];
    if (Among != Group::batch || Rounding != Round::down)
      (text += ", Group::") += groups[static_cast<int>(Among)];
    if (Rounding != Round::down) text += ", Round::up";
    return text + ">";
  }
};

}  // namespace moegpt::inline MOEGPT_BUILD
