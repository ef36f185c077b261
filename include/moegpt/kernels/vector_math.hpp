#pragma once
// exp, erf and element-wise maps of vectors. A lane's result depends on that lane alone, so an element has
// the same bits at any index.
#include <moegpt/core/logarithm.hpp>

#include <cmath>
#include <cstdint>
#include <limits>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

namespace detail {

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2, exp(r) by its Taylor series: `terms` of them
// give an error below half a unit in the last place of T. Adding `magic` rounds to an integer in the low bits
// of the mantissa, which are shifted to the exponent.
template <class T, class Bits, int terms, int mantissa>
[[gnu::always_inline]] inline Vector<T> exp_of(Vector<T> x, T magic, T lowest, T highest, T ln2_high,
                                               T ln2_low) {
  typedef Bits BitVector __attribute__((vector_size(MOEGPT_VECTOR_BYTES)));
  const auto low = x<lowest, high = x> highest;
  x = low | high ? Vector<T>{} : x;  // results are set below; infinities would raise exceptions
  const Vector<T> t = x * T(1.4426950408889634) + magic;
  const Vector<T> n = t - magic;
  const Vector<T> r = (x - n * ln2_high) - n * ln2_low;
  struct Terms {
    T of[terms + 1];
  };
  constexpr Terms term = [] {
    Terms c{};
    T factorial = 1;
    for (int k = 0; k <= terms; factorial *= T(++k)) c.of[k] = 1 / factorial;
    return c;
  }();
  Vector<T> p = Vector<T>{} + term.of[terms];
#pragma GCC unroll 16
  for (int k = terms - 1; k >= 0; --k) p = p * r + term.of[k];
  BitVector bits;
  std::memcpy(&bits, &t, sizeof t);
  bits = (bits << mantissa) + (Bits(std::numeric_limits<T>::max_exponent - 1) << mantissa);
  Vector<T> power;
  std::memcpy(&power, &bits, sizeof power);
  p *= power;
  p = low ? Vector<T>{} : p;
  return high ? Vector<T>{} + std::numeric_limits<T>::infinity() : p;
}

}  // namespace detail

[[gnu::always_inline]] inline Vector<float> exponential(Vector<float> x) {
  return detail::exp_of<float, std::uint32_t, 7, 23>(x, 12582912.0f, -87.3f, 88.3f, 0.693145751953125f,
                                                     1.428606765330187e-06f);
}
[[gnu::always_inline]] inline Vector<double> exponential(Vector<double> x) {
  return detail::exp_of<double, std::uint64_t, 14, 52>(x, 6755399441055744.0, -708.3, 709.4,
                                                       0.6931471803691238, 1.9082149292705877e-10);
}
// erf x = x P(x^2) / Q(x^2): minimax polynomials of degree 5, relative error at most 2e-8 on [0, 3.92];
// beyond, erf rounds to 1.
[[gnu::always_inline]] inline Vector<float> error_function(Vector<float> x) {
  constexpr float P[] = {1.12837915f,    0.190365742f,    0.0527432975f,
                         0.00376384833f, 0.000284839569f, 2.05036238e-6f};
  constexpr float Q[] = {1, 0.502039997f, 0.114092238f, 0.0149656933f, 0.00116209944f, 3.80922947e-5f};
  const auto above = x > 3.92f, below = x < -3.92f;
  const Vector<float> in = above | below ? Vector<float>{} : x, z = in * in;
  Vector<float> p = Vector<float>{} + P[5], q = Vector<float>{} + Q[5];
#pragma GCC unroll 8
  for (int k = 4; k >= 0; --k) {
    p = p * z + P[k];
    q = q * z + Q[k];
  }
  const Vector<float> y = in * p / q;
  return above ? Vector<float>{} + 1.0f : below ? Vector<float>{} - 1.0f : y;
}
[[gnu::always_inline]] inline Vector<double> error_function(Vector<double> x) {
  for (int i = 0; i < lanes<double>; ++i) x[i] = std::erf(x[i]);
  return x;
}

// The larger of each pair; b where a is NaN.
template <class T>
[[gnu::always_inline]] inline Vector<T> larger(const Vector<T>& a, const Vector<T>& b) {
  return a > b ? a : b;
}

// y = f(x); y may be x.
template <class T, class F>
[[gnu::always_inline]] inline void map(Index n, const T* x, T* y, F&& f) {
  for_each_vector<T>(n, [&](Index i, auto part) { part.store(y + i, f(part.load(x + i))); });
}

// y = f(a, b); y may be a or b.
template <class T, class F>
[[gnu::always_inline]] inline void map2(Index n, const T* a, const T* b, T* y, F&& f) {
  for_each_vector<T>(n,
                     [&](Index i, auto part) { part.store(y + i, f(part.load(a + i), part.load(b + i))); });
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
