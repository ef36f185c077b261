// What a model is made of is a router, and which of its experts are allowed is said to a workspace.
// expect: Recipe must be Dense, a router such as TopKRouter<8, 2>
#include <moegpt/model/gpt.hpp>

constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2};
using Router = moegpt::TopKRouter<4, 2>;
#ifdef FAULT
moegpt::GPT<config, moegpt::AllowedExperts<Router>> model;
#else
moegpt::GPT<config, Router> model;
#endif
