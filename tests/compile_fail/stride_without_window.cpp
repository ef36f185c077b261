// A stride adds keys to local ones, so it needs the size of a window.
// expect: attention: window_at, local and stride need a window, the size of the local keys
#include <moegpt/model/gpt.hpp>

#ifdef FAULT
constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2, .stride = 2};
#else
constexpr moegpt::Config config{
    .vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2, .window = 1, .stride = 2};
#endif
moegpt::GPT<config, moegpt::TopKRouter<4, 2>> model;
