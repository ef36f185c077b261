// Between linear experts and their shared projection is one activation or none.
// expect: at most one activation stands before the shared projection
#include <moegpt/moe/projected_mixture.hpp>

using moegpt::Activation;
using Linear = moegpt::LinearExpert<6, 9>;
#ifdef FAULT
moegpt::ProjectedMixture<moegpt::TopKRouter<4, 2>, Linear, Activation::relu, Activation::silu> layer;
#else
moegpt::ProjectedMixture<moegpt::TopKRouter<4, 2>, Linear, Activation::relu> layer;
#endif
