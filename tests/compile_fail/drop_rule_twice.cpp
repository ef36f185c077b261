// A router has one drop policy: of two, one would have no effect.
// expect: Dropping: this router has a drop rule already
#include <moegpt/routing/dropping.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/routing/top_k_router.hpp>

#ifdef FAULT
using Inside = moegpt::Dropping<moegpt::TopKRouter<4, 2>, moegpt::Drop::slot_major>;
#else
using Inside = moegpt::TopKRouter<4, 2>;
#endif
static_assert(moegpt::Dropping<moegpt::Masked<Inside>, moegpt::Drop::probability>::experts == 4);
