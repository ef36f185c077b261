// One gate divided by its norm is constant.
// expect: TopKRouterWith: K = 1 with gates divided by their norm
#include <moegpt/moe/moe_layer.hpp>

#ifdef FAULT
using Recipe = moegpt::TopKRouterWith<4, 1, moegpt::PNormGates<2>>;
#else
using Recipe = moegpt::TopKRouterWith<4, 2, moegpt::PNormGates<2>>;
#endif
moegpt::MoELayer<Recipe, moegpt::Expert<6, 9>> layer;
