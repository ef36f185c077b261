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
[[gnu::noinline]] double squared_norm(const T* x, Index n) {
  constexpr int W = lanes<double>;
  typedef T Narrow __attribute__((vector_size(W * sizeof(T))));
  Vector<double> sum[4] = {};
  Index i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const T* from = x + i + j * W;
      __builtin_prefetch(from + 4096 / sizeof(T));   // twice as fast from memory
      Narrow narrow;
      std::memcpy(&narrow, from, sizeof narrow);
      const auto wide = __builtin_convertvector(narrow, Vector<double>);
      sum[j] += wide * wide;
    }
  }
  double tail = 0;
  for (; i < n; ++i) tail += double(x[i]) * double(x[i]);
  return sum_lanes<double>((sum[0] + sum[1]) + (sum[2] + sum[3])) + tail;
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
