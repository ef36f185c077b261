// Cosines of vectors without features would all be zero.
// expect: CosineLogits: the width that tokens are projected to must be at least 1
#include <moegpt/routing/cosine_router.hpp>
#include <moegpt/moe/moe_layer.hpp>

#ifdef FAULT
using Recipe = moegpt::CosineRouter<8, 2, 0>;
#else
using Recipe = moegpt::CosineRouter<8, 2, 4>;
#endif
moegpt::MoELayer<Recipe, moegpt::Expert<6, 9>> layer;
