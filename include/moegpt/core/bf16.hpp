#pragma once
// BF16: the upper half of a float, as weights are stored for inference. 8 bits of exponent, 7 of fraction.
#include <moegpt/core/matrix.hpp>

#include <bit>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct BF16 {
  std::uint16_t bits;

  BF16() = default;
  // Rounds to nearest, ties to even; NaN stays NaN, and what is beyond the largest BF16, 3.39e38, becomes
  // infinite.
  explicit BF16(float x) {
    const auto b = std::bit_cast<std::uint32_t>(x);
    const bool nan = (b & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<std::uint16_t>((nan ? b | 0x400000u : b + 0x7fffu + (b >> 16 & 1u)) >> 16);
  }
  explicit BF16(double x) : BF16(static_cast<float>(x)) {}
  // Exact.
  operator float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
};

// The type in which a stored weight takes part in arithmetic.
template <class S>
struct WidenedType {
  using type = S;
};
template <>
struct WidenedType<BF16> {
  using type = float;
};
template <class S>
using Widened = typename WidenedType<std::remove_const_t<S>>::type;

// to[k] = w[row][k],  w[row][k] = from[k]
template <class T>
void read_row(MatrixView<const T> w, Index row, Widened<T>* to) {
  for (Index k = 0; k < w.cols; ++k) to[k] = static_cast<Widened<T>>(w[row][k]);
}
template <class T>
void write_row(MatrixView<T> w, Index row, const Widened<T>* from) {
  for (Index k = 0; k < w.cols; ++k) w[row][k] = static_cast<T>(from[k]);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
