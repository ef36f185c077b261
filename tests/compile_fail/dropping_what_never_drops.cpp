// Expert choice fills every expert exactly: a drop rule around it would do nothing.
// expect: Dropping: this router never drops
#include <moegpt/routing/dropping.hpp>
#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/routing/top_k_router.hpp>

#ifdef FAULT
using Recipe = moegpt::Dropping<moegpt::ExpertChoiceRouter<4>, moegpt::Drop::probability>;
#else
using Recipe = moegpt::Dropping<moegpt::TopKRouter<4, 2>, moegpt::Drop::probability>;
#endif
static_assert(Recipe::experts == 4);
