// A weight of extent zero is absent, one of a negative extent is a mistake.
// expect: Weight: an extent is negative
#include <moegpt/core/matrix.hpp>

#ifdef FAULT
moegpt::Weight<float, 3, -2> weight;
#else
moegpt::Weight<float, 3, 0> weight;
#endif
