// Experts without features would leave a bias.
// expect: WithSharedProjection: the width of the experts must be at least 1
#include <moegpt/model/gpt.hpp>
#include <moegpt/moe/projected_mixture.hpp>

#ifdef FAULT
using Recipe = moegpt::WithSharedProjection<moegpt::TopKRouter<4, 2>, 0>;
#else
using Recipe = moegpt::WithSharedProjection<moegpt::TopKRouter<4, 2>, 6>;
#endif
constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 8, .layers = 1, .heads = 2};
moegpt::GPT<config, Recipe> model;
