// One gate divided by its norm is constant.
// expect: K = 1 with renormalised gates
// expect: TopKRouterWith: ProbabilityGates
#include <moegpt/moe/moe_layer.hpp>

#ifdef FAULT
using Recipe = moegpt::TopKRouterWith<4, 1, moegpt::PNormGates<2>>;
#else
using Recipe = moegpt::TopKRouterWith<4, 2, moegpt::PNormGates<2>>;
#endif
moegpt::MoELayer<Recipe, moegpt::Expert<6, 9>> layer;
