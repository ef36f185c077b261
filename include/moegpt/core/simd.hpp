#pragma once
// SIMD vectors of this unit's width, by the vector extension of g++ and clang: + - * / are element-wise. A
// compiler may fuse a * b + c; multiply_add is fused wherever the target has FMA.
#include <moegpt/core/matrix.hpp>

#include <cmath>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <class T>
inline constexpr int lanes = MOEGPT_VECTOR_BYTES / static_cast<int>(sizeof(T));

template <class T, int Bytes = MOEGPT_VECTOR_BYTES>
struct VectorOf {
  typedef T type __attribute__((vector_size(Bytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;

template <class T>
[[gnu::always_inline]] inline Vector<T> load(const T* p) {
  Vector<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
[[gnu::always_inline]] inline void store(T* p, const Vector<T>& v) {
  std::memcpy(p, &v, sizeof v);
}
// 0, 1, 2 ...
template <class T>
[[gnu::always_inline]] inline Vector<T> lane_numbers() {
  static constexpr T numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  static_assert(lanes<T> <= 16);
  return load(numbers);
}

// Parts of a row, for loop bodies f(i, part) that read and write by part.load and part.store: a full vector,
// the last `count` < lanes elements as a vector padded with `padding`, and one element.
template <class T>
struct FullVector {
  [[gnu::always_inline]] Vector<T> load(const T* p, T = 0) const { return moegpt::load(p); }
  [[gnu::always_inline]] void store(T* p, const Vector<T>& v) const { moegpt::store(p, v); }
};
template <class T>
struct PaddedVector {
  Index count;
  Vector<T> load(const T* p, T padding = 0) const {
    Vector<T> v = Vector<T>{} + padding;
    std::memcpy(&v, p, bytes_of<T>(count));
    return v;
  }
  void store(T* p, const Vector<T>& v) const { std::memcpy(p, &v, bytes_of<T>(count)); }
};
template <class T>
struct OneElement {
  [[gnu::always_inline]] T load(const T* p) const { return *p; }
};

// f(i, part) for the vectors of [0, n), the last one padded: the loop of every element-wise kernel.
template <class T, class F>
[[gnu::always_inline]] inline void for_each_vector(Index n, F&& f) {
  Index i = 0;
  for (; i + lanes<T> <= n; i += lanes<T>) f(i, FullVector<T>{});
  if (i < n) f(i, PaddedVector<T>{n - i});
}

// The sum of all lanes: halves are added until two elements are left.
template <class T, int Bytes = MOEGPT_VECTOR_BYTES>
[[gnu::always_inline]] inline T sum_lanes(const typename VectorOf<T, Bytes>::type& v) {
  if constexpr (Bytes == 2 * sizeof(T)) {
    return v[0] + v[1];
  } else {
    typename VectorOf<T, Bytes / 2>::type halves[2];
    std::memcpy(halves, &v, sizeof v);
    return sum_lanes<T, Bytes / 2>(halves[0] + halves[1]);
  }
}

// a b + c in each lane, rounded once if the target has FMA. By intrinsics, because tuning may prevent fusion:
// g++ does not fuse chains of sums for AMD's Zen in some loops, and bits would differ.
[[gnu::always_inline]] inline Vector<float> multiply_add(float a, const Vector<float>& b,
                                                         const Vector<float>& c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(_mm512_set1_ps(a), b, c);
#elif defined(__AVX__) && defined(__FMA__)
  return _mm256_fmadd_ps(_mm256_set1_ps(a), b, c);
#elif defined(__aarch64__)
  return vfmaq_n_f32(c, b, a);
#else
  return a * b + c;
#endif
}
[[gnu::always_inline]] inline Vector<double> multiply_add(double a, const Vector<double>& b,
                                                          const Vector<double>& c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_pd(_mm512_set1_pd(a), b, c);
#elif defined(__AVX__) && defined(__FMA__)
  return _mm256_fmadd_pd(_mm256_set1_pd(a), b, c);
#elif defined(__aarch64__)
  return vfmaq_n_f64(c, b, a);
#else
  return a * b + c;
#endif
}

// Correctly rounded. Compilers do not vectorise std::sqrt, which may set errno.
[[gnu::always_inline]] inline Vector<float> square_root(const Vector<float>& x) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xffff, x);
#elif defined(__AVX__)
  return _mm256_sqrt_ps(x);
#elif defined(__SSE2__)
  return _mm_sqrt_ps(x);
#elif defined(__aarch64__)
  return vsqrtq_f32(x);
#else
  Vector<float> y;
  for (int i = 0; i < lanes<float>; ++i) y[i] = std::sqrt(x[i]);
  return y;
#endif
}
[[gnu::always_inline]] inline Vector<double> square_root(const Vector<double>& x) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_pd(0xff, x);
#elif defined(__AVX__)
  return _mm256_sqrt_pd(x);
#elif defined(__SSE2__)
  return _mm_sqrt_pd(x);
#elif defined(__aarch64__)
  return vsqrtq_f64(x);
#else
  Vector<double> y;
  for (int i = 0; i < lanes<double>; ++i) y[i] = std::sqrt(x[i]);
  return y;
#endif
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
