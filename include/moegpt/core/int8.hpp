#pragma once
// INT8: integers q from -127 to 127 with one float scale for each row and block of 32 inputs, as weights are
// stored for inference:
//   w = q scale, rounded once to float;  scale = max |w| / 127 over the block,  q = round(w / scale)
// 9 bits per weight. The error of a weight is at most scale / 2.
#include <moegpt/core/bf16.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Names the storage.
struct INT8 {
  static constexpr Index block = 32;
  static constexpr Index blocks(Index inputs) { return (inputs + block - 1) / block; }

  // The scale of `count` finite numbers of a block. 0, which stores them as zeros, if it would be below the
  // smallest normal float.
  static float scale_of(const float* numbers, Index count) {
    float most = 0;
    for (Index k = 0; k < count; ++k) most = std::max(most, std::abs(numbers[k]));
    const float scale = most / 127;
    return scale < std::numeric_limits<float>::min() ? 0 : scale;
  }
  static std::int8_t rounded(float number, float scale) {
    return static_cast<std::int8_t>(scale > 0 ? std::clamp(std::nearbyint(number / scale), -127.0f, 127.0f)
                                              : 0.0f);
  }
};
template <>
struct WidenedType<INT8> {
  using type = float;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
