// A router that never drops says so itself: as a drop rule around another it would let capacity be ignored.
// expect: Dropping: Drop::never is for routers that limit their experts themselves
#include <moegpt/routing/dropping.hpp>
#include <moegpt/routing/top_k_router.hpp>

#ifdef FAULT
using Recipe = moegpt::Dropping<moegpt::TopKRouter<4, 2>, moegpt::Drop::never>;
#else
using Recipe = moegpt::Dropping<moegpt::TopKRouter<4, 2>, moegpt::Drop::token_order>;
#endif
static_assert(Recipe::experts == 4);
