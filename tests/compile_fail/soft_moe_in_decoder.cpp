// Soft MoE mixes tokens of all positions: it is not causal.
// expect: this router looks at later tokens
#include <moegpt/model/gpt.hpp>
#include <moegpt/moe/soft_moe.hpp>

constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2};
using Recipe = moegpt::SoftMoE<4, 2>;
#ifdef FAULT
moegpt::GPT<config, Recipe> model;
#else
moegpt::GPT<config, moegpt::AllowNonCausal<Recipe> > model;
#endif
