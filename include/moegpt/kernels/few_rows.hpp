#pragma once
// Matrix product with few rows (small M), as in generation: C = initial + A W^T, A [M, K], W [N, K]
// row-major, C [M, N]. Its time is that of reading W once. The lanes of vectors are columns of C. Squares
// of lanes x lanes elements of W are transposed in registers; its next rows are prefetched in memory order.
// Every element of C is the chain of multiply-adds over k of kernels/gemm.hpp.
#include <moegpt/core/exec.hpp>
#include <moegpt/kernels/micro_kernel.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// Initial value of C: zero, the old C (accumulate), or bias [N] in every row.
template <class T>
struct InitialC {
  bool accumulate = false;
  const T* bias = nullptr;
};

// Maximum M: the sums of M vectors and a square of W fit the registers.
inline constexpr Index few_rows = MOEGPT_VECTOR_BYTES == 64 ? 16 : 8;

namespace detail {

// Block size in k: the block of A fits L1; the current and the prefetched rows of W fit L2.
template <class T, int M>
inline constexpr Index few_rows_depth = M <= 4 ? 4096 / Index{sizeof(T)} : 16384 / Index{sizeof(T)} / M;

// panel[k][m] = A[m][k], zero for m >= a.rows. panel [a.cols, M].
template <class T, int M>
void pack_few_rows(const Operand<T>& a, T* panel) {
  if (a.rows < M) std::memset(panel, 0, bytes_of<T>(a.cols * M));
  if (a.col_stride == 1)
    return transpose<T>({a.data, a.rows, a.cols, a.row_stride}, {panel, a.cols, a.rows, M}, a.index);
  for (Index m = 0; m < a.rows; ++m)
    for (Index k = 0; k < a.cols; ++k) panel[k * M + m] = a.row(m)[k * a.col_stride];
}

// sum[m][j] += sum_k a[k][m] w[j][k] for the lanes j of a vector. Prefetches rows `next` of w unless null.
template <class T, int M>
[[gnu::always_inline]] inline void few_rows_block(const T* a, const T* w, Index stride, Index depth,
                                                  const T* next, Vector<T>* sum) {
  constexpr int W = lanes<T>;
  constexpr Index line = 64 / Index{sizeof(T)};           // elements of a cache line
  constexpr Index lines = W * W / line;                   // of a square
  const Index run = stride == depth ? W * depth : depth;  // that lies in one piece
  Index fetched = 0, k = 0;
  for (; k + W <= depth; k += W, a += W * M) {
    Vector<T> square[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) square[i] = load(w + i * stride + k);
    if (next) {
#pragma GCC unroll 16
      for (Index i = 0; i < lines; ++i) __builtin_prefetch(next + i * line, 0, 2);
      fetched += lines * line;
      next += lines * line;
      if (fetched >= run) next += stride - fetched, fetched = 0;
    }
    exchange_all<T>(square);
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i)
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) sum[m] = multiply_add(a[i * M + m], square[i], sum[m]);
  }
  for (; k < depth; ++k, a += M) {
    T column[W];
    for (int i = 0; i < W; ++i) column[i] = w[i * stride + k];
    const Vector<T> v = load(column);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) sum[m] = multiply_add(a[m], v, sum[m]);
  }
}

// C = initial + A W^T for lanes<T> columns of C from n on. The last block ends at the last column; it
// recomputes some columns, which are not stored. a [depth.count, M]
template <class T, int M>
[[gnu::always_inline]] inline void few_rows_columns(const T* a, MatrixView<const T> w, MatrixView<T> c,
                                                    const T* bias, bool resume, Index n, Rows depth) {
  constexpr int W = lanes<T>;
  const Index again = n + W > c.cols ? n + W - c.cols : 0, first = n - again;
  Vector<T> sum[M] = {};
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
    if (m < c.rows && (resume || bias)) sum[m] = load((resume ? c[m] : bias) + first);
  const T* const rows = w[first] + depth.first;
  few_rows_block<T, M>(a, rows, w.stride, depth.count, n + 2 * W <= c.cols ? rows + W * w.stride : nullptr,
                       sum);
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
    if (m >= c.rows) continue;
    if (again == 0)
      store(c[m] + n, sum[m]);
    else
      std::memcpy(c[m] + n, reinterpret_cast<const T*>(&sum[m]) + again, bytes_of<T>(W - again));
  }
}

// C = initial + A W^T for at most M rows and at least a vector of columns.
template <class T, int M>
[[gnu::noinline]] void gemm_few_rows_of(const Operand<T>& a, MatrixView<const T> w, MatrixView<T> c,
                                        InitialC<T> initial) {
  constexpr Index most = few_rows_depth<T, M>;
  alignas(64) T panel[M > 1 ? most * M : most];
  const Pieces depths{w.cols, most};
  for (Index p = 0; p < depths.size(); ++p) {
    const Rows depth = depths[p];
    const bool in_place = M == 1 && a.col_stride == 1, resume = p > 0 || initial.accumulate;
    if (!in_place) pack_few_rows<T, M>(a.cols_at(depth), panel);
    const T* const x = in_place ? a.row(0) + depth.first : panel;
    for (Index n = 0; n < c.cols; n += lanes<T>)
      few_rows_columns<T, M>(x, w, c, initial.bias, resume, n, depth);
  }
}

// C = initial + A W^T for 1 to few_rows rows.
template <class T>
[[gnu::noinline]] void gemm_few_rows(const Operand<T>& a, MatrixView<const T> w, MatrixView<T> c,
                                     InitialC<T> initial) {
  if (c.rows == 1) return gemm_few_rows_of<T, 1>(a, w, c, initial);
  if (c.rows <= 4) return gemm_few_rows_of<T, 4>(a, w, c, initial);
  if constexpr (few_rows > 8)
    if (c.rows > 8) return gemm_few_rows_of<T, 16>(a, w, c, initial);
  gemm_few_rows_of<T, 8>(a, w, c, initial);
}

}  // namespace detail
}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
