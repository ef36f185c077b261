// An index beyond the limit of layers.
// expect: Config: mixture_at names a layer that is not there: layers are numbered from 0 to layers - 1
#include <moegpt/model/gpt.hpp>

#ifdef FAULT
constexpr moegpt::Config config{
    .vocab = 5, .context = 4, .dim = 8, .layers = 4, .heads = 2, .mixture_at = {1, 300}};
#else
constexpr moegpt::Config config{
    .vocab = 5, .context = 4, .dim = 8, .layers = 4, .heads = 2, .mixture_at = {1, 0}};
#endif
moegpt::GPT<config, moegpt::TopKRouter<4, 2>> model;
