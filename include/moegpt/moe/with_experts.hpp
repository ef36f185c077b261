#pragma once
// User-defined experts in a model: GPT<config, WithExperts<TopKRouter<8, 2>, MyExpert>>. X<D, Dff, T> is an
// ExpertNetwork of width D and scalar T (layers/expert.hpp). Dff is the width of an expert of the Config; X
// may ignore it. WithExperts<Dense, X> is a dense model: each layer that is a mixture otherwise has one X for
// all tokens.
#include <moegpt/moe/feed_forward.hpp>
#include <moegpt/moe/moe_layer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace detail {
// In text(): the name of experts that have a text() themselves.
template <class Sample>
std::string with_experts_text(const std::string& recipe) {
  return "WithExperts<" + recipe + ", " + Sample::text() + ">";
}
}  // namespace detail

// Around a router, or a mixture such as SharedExperts<...>, whose shared expert is then one of X, too. A type
// X<4, 4, float> must exist. Model files call the recipe by its name if that type has a static text().
template <class Recipe, template <int D, int Dff, class T> class X>
struct WithExperts {
  using Sample = X<4, 4, float>;
  static_assert(ExpertNetwork<Sample>,
                "WithExperts: X<D, Dff, T> lacks something that an ExpertNetwork has "
                "(layers/expert.hpp)");
  static constexpr int experts = Recipe::experts, active = Recipe::active;
  static constexpr bool causal = Recipe::causal;
  static constexpr bool allows_non_causal = moegpt::allows_non_causal<Recipe>;
  static std::string text()
    requires requires { Recipe::text(), Sample::text(); }
  {
    return detail::with_experts_text<Sample>(Recipe::text());
  }
  template <class Self, ExpertNetwork OfConfig>
  using Mixture =
      MixtureOf<AllowedAs<Self, Recipe>, X<OfConfig::dim, OfConfig::hidden, typename OfConfig::Scalar>>;
};

template <template <int D, int Dff, class T> class X>
struct WithExperts<Dense, X> {
  using Sample = X<4, 4, float>;
  static_assert(ExpertNetwork<Sample>,
                "WithExperts: X<D, Dff, T> lacks something that an ExpertNetwork has "
                "(layers/expert.hpp)");
  static constexpr int experts = 1, active = 1;
  static constexpr bool causal = true;
  static std::string text()
    requires requires { Sample::text(); }
  {
    return detail::with_experts_text<Sample>("Dense");
  }
  template <class Self, ExpertNetwork OfConfig>
  using Mixture = FeedForward<X<OfConfig::dim, OfConfig::hidden, typename OfConfig::Scalar>>;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
