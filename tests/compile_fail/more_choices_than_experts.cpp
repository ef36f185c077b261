// A token cannot choose more experts than there are.
// expect: K must lie in 1 .. E
#include <moegpt/moe/moe_layer.hpp>

#ifdef FAULT
using Recipe = moegpt::TopKRouter<2, 3>;
#else
using Recipe = moegpt::TopKRouter<3, 2>;
#endif
moegpt::MoELayer<Recipe, moegpt::Expert<6, 9>> layer;
