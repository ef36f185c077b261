// A model's experts come from its Config; the third argument is the scalar and the storage of weights.
// expect: N must be float, double
#include <moegpt/model/gpt.hpp>

constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2};
#ifdef FAULT
moegpt::GPT<config, moegpt::TopKRouter<4, 2>, moegpt::Expert<8, 9>> model;
#else
moegpt::GPT<config, moegpt::TopKRouter<4, 2>, double> model;
#endif
