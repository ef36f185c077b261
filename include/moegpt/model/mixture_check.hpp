#pragma once
// What a model reads of the type of a mixture besides its interface as a layer, and the diagnostics of a type
// that lacks it.
#include <moegpt/model/config.hpp>
#include <moegpt/moe/moe_layer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <class Mixture>
concept StatesCausal = requires {
  { Mixture::causal } -> std::convertible_to<bool>;
};
template <class Mixture>
concept StatesName = requires {
  { Mixture::name } -> std::convertible_to<std::string_view>;
};

template <class Mixture>
consteval bool whole_mixture() {
  static_assert(
      StatesCausal<Mixture>,
      "Recipe::Mixture lacks `static constexpr bool causal`: whether a token's output does not depend "
      "on later tokens");
  static_assert(
      StatesName<Mixture>,
      "Recipe::Mixture lacks `static constexpr std::string_view name`: the component of its weights' "
      "paths, such as \"moe\"");
  return StatesCausal<Mixture> && StatesName<Mixture>;
}

// Constraint of models, after make_a_model, whose static assertions precede the compiler's own diagnostics.
template <Config C, class Recipe, class N>
consteval bool make_a_mixture() {
  using Gated = GatedExpert<C.dim, C.expert_width(), C.activation, N, C.expert_bias>;
  using Plain = Expert<C.dim, C.expert_width(), C.activation, N, C.expert_bias>;
  using ExpertType = std::conditional_t<C.gated, Gated, Plain>;
  if constexpr (extents_make_sense<C>())
    if constexpr (requires { typename Recipe::template Mixture<Recipe, ExpertType>; })
      return whole_mixture<MixtureOf<Recipe, ExpertType>>();
  return true;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
