// A mixture type that has no name is reported by what it lacks.
// expect: Recipe::Mixture lacks `static constexpr std::string_view name`
#include <moegpt/model/gpt.hpp>

template <class X>
struct Layer : moegpt::FeedForward<X> {
#ifdef FAULT
 private:
  using moegpt::FeedForward<X>::name;
#endif
};
struct Recipe {
  static constexpr int experts = 1, active = 1;
  static constexpr bool causal = true;
  template <class, moegpt::ExpertNetwork X>
  using Mixture = Layer<X>;
};
constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2};
moegpt::GPT<config, Recipe> model;
