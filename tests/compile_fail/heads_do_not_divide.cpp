// 3 heads do not share 8 features evenly: head_dim must then be set.
// expect: dim must be a multiple of heads
#include <moegpt/model/gpt.hpp>

#ifdef FAULT
constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 3};
#else
constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 3, .head_dim = 4};
#endif
moegpt::GPT<config, moegpt::TopKRouter<4, 2>> model;
