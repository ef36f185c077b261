// The second argument of GPT is a router specification; allowed experts are an argument of the workspace.
// expect: Recipe must be Dense, a router such as TopKRouter<8, 2>
#include <moegpt/model/gpt.hpp>

constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2};
using Router = moegpt::TopKRouter<4, 2>;
#ifdef FAULT
moegpt::GPT<config, moegpt::AllowedExperts<Router>> model;
#else
moegpt::GPT<config, Router> model;
#endif
