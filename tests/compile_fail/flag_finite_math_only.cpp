// NaN and infinity could not be seen: weights that are not finite would not be rejected.
// with: -ffinite-math-only
// expect: leave out -ffinite-math-only
#include <moegpt/core/build.hpp>
