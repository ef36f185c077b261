// Series whose constants are floats. clang does not know this flag.
// with GNU: -fsingle-precision-constant
// expect: leave out -fsingle-precision-constant
#include <moegpt/core/build.hpp>
