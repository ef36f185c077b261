// Four times this width would overflow an int.
// expect: Config: an extent is absurd
#include <moegpt/model/config.hpp>

#ifdef FAULT
constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 1 << 30, .layers = 1, .heads = 2};
#else
constexpr moegpt::Config config{.vocab = 5, .context = 4, .dim = 1 << 10, .layers = 1, .heads = 2};
#endif
static_assert(moegpt::extents_make_sense<config>());
