// Divisions that round twice. clang does not report this flag.
// with GNU: -freciprocal-math
// expect: leave out -freciprocal-math
#include <moegpt/core/build.hpp>
