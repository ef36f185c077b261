// With reordered sums exp() loses its rounding: softmax(0, 0.3, 1) was 0.25, 0.25, 0.5.
// with: -ffast-math
// with: -O2 -ffast-math
// with: -Ofast
// expect: leave out -ffast-math
#include <moegpt/core/build.hpp>
