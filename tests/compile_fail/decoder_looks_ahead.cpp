// A router that compares tokens with later ones is not causal, so a decoder rejects it.
// expect: this router looks at later tokens
#include <moegpt/model/gpt.hpp>
#include <moegpt/routing/expert_choice_router.hpp>

constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2};
using Recipe = moegpt::ExpertChoiceRouter<4>;
#ifdef FAULT
moegpt::GPT<config, Recipe> model;
#else
moegpt::GPT<config, moegpt::AllowNonCausal<Recipe> > model;
#endif
