#pragma once
// Large products by a BLAS, any that has Fortran's sgemm_ and dgemm_, in builds with MOEGPT_USE_BLAS. Its
// order of summation may depend on shapes, so invariants 5 and 6 do not hold for products that it computes.
#include <moegpt/kernels/micro_kernel.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {
namespace detail {

// The two symbols under names of this library, because declarations of other headers differ (Eigen,
// OpenBLAS).
#define MOEGPT_SYMBOL_(prefix, name) __asm__(#prefix name)
#define MOEGPT_SYMBOL(prefix, name) MOEGPT_SYMBOL_(prefix, name)
#define MOEGPT_GEMM(T, name)                                                                               \
  void fortran_gemm(const char* order_a, const char* order_b, const int* m, const int* n, const int* k,    \
                    const T* alpha, const T* a, const int* lda, const T* b, const int* ldb, const T* beta, \
                    T* c, const int* ldc) MOEGPT_SYMBOL(__USER_LABEL_PREFIX__, name)
MOEGPT_GEMM(float, "sgemm_");
MOEGPT_GEMM(double, "dgemm_");
#undef MOEGPT_GEMM
#undef MOEGPT_SYMBOL
#undef MOEGPT_SYMBOL_

// Argument TRANS for m^T, which is m in Fortran's column-major order: 'N' or 'T'; 0: m cannot be passed.
template <class T>
char fortran_order(const Operand<T>& m) {
  if (m.index) return 0;
  if (m.col_stride == 1 && m.row_stride >= m.cols) return 'N';
  if (m.row_stride == 1 && m.col_stride >= m.rows) return 'T';
  return 0;
}

// Whether A and B can be passed to BLAS and are large enough: below `least`, gemm is faster
// (docs/performance.md).
template <class T>
bool for_blas(const Operand<T>& a, const Operand<T>& b) {
  constexpr Index least = Index{1} << 28;  // multiply-adds
  return a.rows * a.cols * b.cols >= least && fortran_order(a) && fortran_order(b);
}

// C = A B + beta C, as C^T = B^T A^T + beta C^T
template <class T>
void blas(const Operand<T>& a, const Operand<T>& b, MatrixView<T> c, T beta) {
  const char order_a = fortran_order(a), order_b = fortran_order(b);
  const auto integer = [](Index i) { return static_cast<int>(i); };
  const int m = integer(c.cols), n = integer(c.rows), k = integer(a.cols), ldc = integer(c.stride);
  const int lda = integer(order_a == 'N' ? a.row_stride : a.col_stride);
  const int ldb = integer(order_b == 'N' ? b.row_stride : b.col_stride);
  const T one = 1;
  fortran_gemm(&order_b, &order_a, &m, &n, &k, &one, b.data, &ldb, a.data, &lda, &beta, c.data, &ldc);
}

}  // namespace detail
}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
