// Capacity belongs to experts, so a drop policy of one of two levels would have no effect.
// expect: HierarchicalRouter: capacity is the experts'
#include <moegpt/routing/dropping.hpp>
#include <moegpt/routing/hierarchical_router.hpp>
#include <moegpt/routing/top_k_router.hpp>

using Top = moegpt::TopKRouter<4, 2>;
#ifdef FAULT
using Levels = moegpt::HierarchicalRouter<Top, moegpt::Dropping<Top, moegpt::Drop::slot_major>>;
#else
using Levels = moegpt::Dropping<moegpt::HierarchicalRouter<Top, Top>, moegpt::Drop::slot_major>;
#endif
static_assert(Levels::experts == 16);
