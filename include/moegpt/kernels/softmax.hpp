#pragma once
// Softmax over one contiguous row, and its backward.
#include <moegpt/kernels/reduce.hpp>
#include <moegpt/kernels/vector_math.hpp>

#include <cmath>
#include <limits>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

template <class T>
inline constexpr T minus_infinity = -std::numeric_limits<T>::infinity();

// x = exp(x - max), total = their sum; returns log-sum-exp (lse). A row of minus infinities becomes zeros.
template <class T>
T exponentials(T* x, Index n, T& total) {
  T top = minus_infinity<T>;
  for (Index i = 0; i < n; ++i) top = x[i] > top ? x[i] : top;
  if (top == minus_infinity<T>) {
    for (Index i = 0; i < n; ++i) x[i] = x[i] == top ? T(0) : x[i];  // other values are NaN and unchanged
    total = sum(x, n);
    return top + total;
  }
  map(n, x, x, [&](Vector<T> v) { return exponential(v - top); });
  total = sum(x, n);
  return top + std::log(total);
}

// x = softmax(x); returns log-sum-exp (lse).
template <class T>
T softmax(T* x, Index n) {
  T total;
  const T lse = exponentials(x, n, total);
  const T scale = total > 0 ? 1 / total : T(0);
  for (Index i = 0; i < n; ++i) x[i] *= scale;
  return lse;
}

// dz += s (ds - sum_j ds_j s_j), with s = softmax(z).
template <class T>
void softmax_backward(const T* s, const T* ds, T* dz_sum, Index n) {
  const T mean = dot(ds, s, n);
  for (Index i = 0; i < n; ++i) dz_sum[i] += s[i] * (ds[i] - mean);
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
