// In a decoder the first token sees no other, so a classifier of it knows one id.
// expect: under a causal mask the first token sees no other
#include <moegpt/model/classifier.hpp>

constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2};
#ifdef FAULT
moegpt::Classifier<config, moegpt::Dense, 3, moegpt::Pooling::first> model;
#else
moegpt::Classifier<config, moegpt::Dense, 3, moegpt::Pooling::last> model;
#endif
