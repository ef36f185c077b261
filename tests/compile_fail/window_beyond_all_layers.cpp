// A window in a layer that the model does not have.
// expect: Config: window_at names a layer that is not there: layers are numbered from 0 to layers - 1
#include <moegpt/model/gpt.hpp>

#ifdef FAULT
constexpr moegpt::Config config{
    .vocab = 5, .context = 4, .dim = 8, .layers = 4, .heads = 2, .window = 2, .window_at = {1, 4}};
#else
constexpr moegpt::Config config{
    .vocab = 5, .context = 4, .dim = 8, .layers = 4, .heads = 2, .window = 2, .window_at = {1, 3}};
#endif
moegpt::GPT<config, moegpt::TopKRouter<4, 2>> model;
