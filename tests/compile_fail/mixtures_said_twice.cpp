// A predicate says all about which layers are mixtures.
// expect: mixture_at says alone which layers are mixtures
#include <moegpt/model/gpt.hpp>

#ifdef FAULT
constexpr int dense_first = 1;
#else
constexpr int dense_first = 0;
#endif
moegpt::GPT<moegpt::Config{.vocab = 5,
                           .context = 4,
                           .dim = 8,
                           .layers = 2,
                           .heads = 2,
                           .dense_first = dense_first,
                           .mixture_at = {1}},
            moegpt::TopKRouter<4, 2>>
    model;
