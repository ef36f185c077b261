// The number of slots, experts times slots of each, would overflow.
// expect: SoftMoELayer: at most 2^20 slots, E P
#include <moegpt/moe/soft_moe.hpp>

#ifdef FAULT
constexpr int slots = 1 << 30;
#else
constexpr int slots = 1 << 5;
#endif
static_assert(moegpt::SoftMoELayer<4, slots, moegpt::Expert<6, 9>>::dim_in == 6);
