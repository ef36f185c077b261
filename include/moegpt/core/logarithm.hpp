#pragma once
// Natural logarithm of vectors, for normal variates (core/random.hpp) and kernels.
#include <moegpt/core/simd.hpp>

#include <cstdint>
#include <limits>
#include <type_traits>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// log x = e ln 2 + 2 artanh s, x = 2^e m, sqrt(1/2) <= m < sqrt 2, s = (m - 1) / (m + 1), by the series of
// artanh. The first omitted term is below half a unit in the last place. Zero and positive denormals give
// minus infinity, negative numbers NaN.
template <class T>
[[gnu::always_inline]] inline Vector<T> logarithm(const Vector<T>& x) {
  constexpr bool single = sizeof(T) == 4;
  using Bits = std::conditional_t<single, std::uint32_t, std::uint64_t>;
  constexpr int mantissa = single ? 23 : 52, terms = single ? 5 : 11;
  constexpr Bits one = Bits(std::numeric_limits<T>::max_exponent - 1) << mantissa;
  constexpr Bits root = single ? Bits(0x3f3504f3) : Bits(0x3fe6a09e667f3bcd);  // of one half
  constexpr Bits magic = Bits(std::numeric_limits<T>::max_exponent - 1 + mantissa) << mantissa;  // 2^mantissa
  Vector<Bits> bits;
  std::memcpy(&bits, &x, sizeof x);
  const Vector<Bits> exponent = (bits + (one - root)) >> mantissa;  // biased
  const Vector<Bits> mantissa_bits = bits - (exponent << mantissa) + one, exponent_bits = exponent | magic;
  Vector<T> m, e;
  std::memcpy(&m, &mantissa_bits, sizeof m);
  std::memcpy(&e, &exponent_bits, sizeof e);
  e -= static_cast<T>((Bits{1} << mantissa) + std::numeric_limits<T>::max_exponent - 1);
  const Vector<T> s = (m - 1) / (m + 1), z = s * s;
  Vector<T> p = Vector<T>{} + T(2) / (2 * terms - 1);
#pragma GCC unroll 16
  for (int k = terms - 2; k >= 0; --k) p = p * z + T(2) / static_cast<T>(2 * k + 1);
  constexpr T ln2_high = single ? T(0.693359375) : T(0.693147180369123816490);
  constexpr T ln2_low = single ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);
  Vector<T> y = e * ln2_high + (s * p + e * ln2_low);
  y = x < std::numeric_limits<T>::min() ? Vector<T>{} - std::numeric_limits<T>::infinity() : y;
  y = x < T(0) ? Vector<T>{} + std::numeric_limits<T>::quiet_NaN() : y;
  return x <= std::numeric_limits<T>::max() ? y : x;  // infinity and NaN are unchanged
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
