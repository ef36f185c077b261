// A layer that a model does not have cannot be a mixture: 4 is the fifth of four.
// expect: Config: mixture_at names a layer that is not there: layers are numbered from 0 to layers - 1
#include <moegpt/model/gpt.hpp>

#ifdef FAULT
constexpr moegpt::Config config{
    .vocab = 5, .context = 4, .dim = 8, .layers = 4, .heads = 2, .mixture_at = {2, 4}};
#else
constexpr moegpt::Config config{
    .vocab = 5, .context = 4, .dim = 8, .layers = 4, .heads = 2, .mixture_at = {2, 3}};
#endif
moegpt::GPT<config, moegpt::TopKRouter<4, 2>> model;
