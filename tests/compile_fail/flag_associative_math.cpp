// Sums in another order. clang reports none of these flags.
// with GNU: -fassociative-math -fno-signed-zeros -fno-trapping-math
// with GNU: -funsafe-math-optimizations
// with GNU: -ffast-math -fno-finite-math-only
// expect: leave out -fassociative-math
#include <moegpt/core/build.hpp>
