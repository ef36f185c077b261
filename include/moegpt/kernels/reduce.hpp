#pragma once
// Sums over one contiguous row, in an order fixed by its length alone.
#include <moegpt/core/simd.hpp>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

// sum_i term(i), with term_vector(i) the terms i .. i + lanes.
template <class T, class F, class G>
[[gnu::always_inline]] inline T reduce(Index n, F&& term_vector, G&& term) {
  constexpr int W = lanes<T>;
  Vector<T> a{}, b{};
  const Index whole = n / (2 * W) * (2 * W);
  for (Index i = 0; i < whole; i += 2 * W) {
    a += term_vector(i);
    b += term_vector(i + W);
  }
  a += b;
  T tail = 0;
  for (Index i = whole; i < n; ++i) tail += term(i);
  return sum_lanes<T>(a) + tail;
}

template <class T>
T sum(const T* x, Index n) {
  return reduce<T>(n, [&](Index i) { return load(x + i); }, [&](Index i) { return x[i]; });
}

template <class T>
T dot(const T* x, const T* y, Index n) {
  return reduce<T>(n, [&](Index i) { return load(x + i) * load(y + i); }, [&](Index i) { return x[i] * y[i]; });
}

// y += a x
template <class T>
void axpy(Index n, T a, const T* x, T* y) {
  for (Index i = 0; i < n; ++i) y[i] += a * x[i];
}

// sum of squares in double: for norms over many numbers.
template <class T>
double squared_norm(const T* x, Index n) {
  double a[8] = {};
  Index i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; ++j) a[j] += double(x[i + j]) * double(x[i + j]);
  double s = 0;
  for (int j = 0; j < 8; ++j) s += a[j];
  for (; i < n; ++i) s += double(x[i]) * double(x[i]);
  return s;
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
