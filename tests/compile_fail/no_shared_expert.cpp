// SharedExperts needs at least one shared expert.
// expect: at least one expert is shared
#include <moegpt/moe/shared_experts.hpp>

#ifdef FAULT
constexpr int shared = 0;
#else
constexpr int shared = 1;
#endif
moegpt::MixtureOf<moegpt::SharedExperts<moegpt::TopKRouter<4, 2>, shared>, moegpt::Expert<6, 9>> layer;
