// A masked router without tasks would have no mask.
// expect: one mask for each task, and at least one task
#include <moegpt/routing/masked.hpp>
#include <moegpt/moe/moe_layer.hpp>

#ifdef FAULT
constexpr int tasks = 0;
#else
constexpr int tasks = 2;
#endif
moegpt::MoELayer<moegpt::Masked<moegpt::TopKRouter<4, 2>, tasks>, moegpt::Expert<6, 9>> layer;
