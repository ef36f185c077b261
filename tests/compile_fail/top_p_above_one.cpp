// Probabilities cannot reach more than one.
// expect: TopPRouter: p must be more than 0 and at most 1
#include <moegpt/moe/moe_layer.hpp>
#include <moegpt/routing/top_p_router.hpp>

#ifdef FAULT
using Recipe = moegpt::TopPRouter<4, 2, std::ratio<3, 2>>;
#else
using Recipe = moegpt::TopPRouter<4, 2, std::ratio<2, 3>>;
#endif
moegpt::MoELayer<Recipe, moegpt::Expert<6, 9>> layer;
