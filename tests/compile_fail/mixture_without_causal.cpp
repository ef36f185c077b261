// A mixture type that does not say whether it is causal is reported by what it lacks.
// expect: Recipe::Mixture lacks `static constexpr bool causal`
#include <moegpt/model/gpt.hpp>

template <class X>
struct Layer : moegpt::FeedForward<X> {
#ifdef FAULT
 private:
  using moegpt::FeedForward<X>::causal;
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
