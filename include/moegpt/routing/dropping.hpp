#pragma once
// Drop policy of a router specification, a part of its type: Dropping<TopKRouter<8, 2>, Drop::slot_major>.
// The capacity is a run-time option: ModelOptions::capacity_factor (0, the default: dropless), min_capacity.
#include <moegpt/routing/router.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Any router specification that assigns under a capacity, with the order in which pairs claim slots and the
// capacity group. Causal in token order and with Group::position, otherwise non-causal.
//   GShard, ST-MoE    Drop::slot_major, Group::sequence; their capacity has no factor K: divide it by K
//   V-MoE             Drop::batch_prioritised
//   Megatron          Drop::probability, Group::batch, Round::up
//   HF Switch         Drop::token_order, Group::sequence; constant capacity: a tiny factor, and min_capacity
template <Router Recipe, Drop Order, Group Among = Group::batch, Round Rounding = Round::down>
struct Dropping : Recipe {
  static_assert(drop_rule_of<Recipe>().order != Drop::never,
                "Dropping: this router never drops: it has no use for a drop rule");
  static_assert(!sets_drop_rule<Recipe>,
                "Dropping: this router has a drop rule already, which would be the only one that counts");
  static_assert(Order != Drop::never,
                "Dropping: Drop::never is for routers that limit their experts themselves");
  static constexpr DropRule drop{Order, Among, Rounding};
  static constexpr bool causal = Recipe::causal && drop.causal();

  static std::string text()
    requires requires { Recipe::text(); }
  {
    constexpr const char* orders[] = {"token_order", "slot_major", "batch_prioritised", "probability"};
    constexpr const char* groups[] = {"batch", "sequence", "position"};
    std::string text = "Dropping<" + Recipe::text() + ", Drop::" + orders[static_cast<int>(Order)];
    if (Among != Group::batch || Rounding != Round::down)
      (text += ", Group::") += groups[static_cast<int>(Among)];
    if (Rounding != Round::down) text += ", Round::up";
    return text + ">";
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
