// Zero stands for the usual width, what is below it for nothing.
// expect: Config: kv_heads, head_dim, hidden and dense_hidden must be at least 0
#include <moegpt/model/gpt.hpp>

#ifdef FAULT
constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2, .hidden = -16};
#else
constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2, .hidden = 16};
#endif
moegpt::GPT<config, moegpt::TopKRouter<4, 2>> model;
