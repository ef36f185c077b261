// The product of experts and groups is limited, because one element per expert is on the stack.
// expect: HierarchicalRouter: at least one and at most 65536 experts in all groups together
#include <moegpt/routing/hierarchical_router.hpp>
#include <moegpt/routing/top_k_router.hpp>

#ifdef FAULT
using Recipe = moegpt::HierarchicalRouter<moegpt::TopKRouter<1024, 2>, moegpt::TopKRouter<1024, 2>>;
#else
using Recipe = moegpt::HierarchicalRouter<moegpt::TopKRouter<4, 2>, moegpt::TopKRouter<1024, 2>>;
#endif
static_assert(Recipe::experts > 0);
