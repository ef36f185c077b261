#pragma once
// How this translation unit is compiled. All names of moegpt are in an inline namespace named after the SIMD
// level, OpenMP and BLAS. So units with different flags keep their own code when they are linked together.
#include <Eigen/Core>

#if !(defined(_MSVC_LANG) ? _MSVC_LANG >= 202002L : __cplusplus >= 202002L)
#error "moegpt needs C++20: compile with -std=c++20"
#endif
#if defined(_OPENMP) && !defined(EIGEN_DONT_PARALLELIZE)
#error "moegpt with OpenMP needs EIGEN_DONT_PARALLELIZE: link moegpt::moegpt or pass -DEIGEN_DONT_PARALLELIZE"
#endif
// IEEE arithmetic is needed: exp() rounds by adding and subtracting a large number, masks are minus infinity,
// and a NaN loss is detected.
#if defined(__FAST_MATH__)
#error "moegpt needs IEEE arithmetic: leave out -ffast-math (-Ofast implies it: use -O3)"
#elif defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ == 1
#error "moegpt needs infinities and NaN: leave out -ffinite-math-only"
#elif defined(__ASSOCIATIVE_MATH__)
#error "moegpt needs sums in their order: leave out -fassociative-math or -funsafe-math-optimizations"
#elif defined(__RECIPROCAL_MATH__)
#error "moegpt needs divisions that round once: leave out -freciprocal-math"
#endif
static_assert(sizeof(1.0) == sizeof(double), "moegpt needs doubles: leave out -fsingle-precision-constant");
static_assert(EIGEN_VERSION_AT_LEAST(3, 4, 0), "moegpt needs Eigen >= 3.4");

#if defined(__AVX512F__)
#define MOEGPT_SIMD avx512
#define MOEGPT_VECTOR_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__)
#define MOEGPT_SIMD avx2
#define MOEGPT_VECTOR_BYTES 32
#elif defined(__AVX__)
#define MOEGPT_SIMD avx
#define MOEGPT_VECTOR_BYTES 32
#elif defined(__ARM_NEON)
#define MOEGPT_SIMD neon
#define MOEGPT_VECTOR_BYTES 16
#else
#define MOEGPT_SIMD sse2
#define MOEGPT_VECTOR_BYTES 16
#endif

#define MOEGPT_JOIN_(a, b) a##_##b
#define MOEGPT_JOIN(a, b) MOEGPT_JOIN_(a, b)
#ifdef _OPENMP
#define MOEGPT_THREADS MOEGPT_JOIN(MOEGPT_SIMD, openmp)
#else
#define MOEGPT_THREADS MOEGPT_JOIN(MOEGPT_SIMD, serial)
#endif
#ifdef MOEGPT_USE_BLAS
#define MOEGPT_BUILD MOEGPT_JOIN(MOEGPT_THREADS, blas)
#else
#define MOEGPT_BUILD MOEGPT_THREADS
#endif

#define MOEGPT_VERSION "0.2.0"

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct BuildInfo {
  const char* version;
  const char* simd;  // the instruction set the kernels were compiled for
  bool openmp;       // whether Exec can use more than one thread
  bool blas;         // whether large products use a BLAS
  const char* compiler;
  int eigen[3];  // world, major, minor
};

inline constexpr BuildInfo build_info() {
#define MOEGPT_TEXT_(x) #x
#define MOEGPT_TEXT(x) MOEGPT_TEXT_(x)
  return {MOEGPT_VERSION, MOEGPT_TEXT(MOEGPT_SIMD),
#ifdef _OPENMP
          true,
#else
          false,
#endif
#ifdef MOEGPT_USE_BLAS
          true,
#else
          false,
#endif
          __VERSION__,    {EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION}};
#undef MOEGPT_TEXT
#undef MOEGPT_TEXT_
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
