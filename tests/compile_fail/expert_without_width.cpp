// An expert without hidden features would be a bias.
// expect: Expert: its widths must be at least 1
#include <moegpt/moe/moe_layer.hpp>

#ifdef FAULT
constexpr int hidden = 0;
#else
constexpr int hidden = 9;
#endif
moegpt::MoELayer<moegpt::TopKRouter<4, 2>, moegpt::Expert<6, hidden>> layer;
