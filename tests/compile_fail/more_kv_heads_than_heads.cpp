// Query heads share key/value heads, not the other way round.
// expect: Config: kv_heads must be at most heads
#include <moegpt/model/gpt.hpp>

#ifdef FAULT
constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2, .kv_heads = 4};
#else
constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 4, .kv_heads = 2};
#endif
moegpt::GPT<config, moegpt::TopKRouter<4, 2>> model;
