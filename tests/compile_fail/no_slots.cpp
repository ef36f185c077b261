// Soft MoE needs at least one slot per expert.
// expect: at least one slot for each
#include <moegpt/moe/soft_moe.hpp>

#ifdef FAULT
constexpr int slot_count = 0;
#else
constexpr int slot_count = 1;
#endif
moegpt::SoftMoELayer<4, slot_count, moegpt::Expert<6, 9>> layer;
