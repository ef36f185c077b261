#pragma once
// The inside of products: an outer-product kernel on packed panels. A block of C stays in registers while a panel of
// B streams past and A is broadcast.
#include <moegpt/kernels/transpose.hpp>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

// An operand of a product: element (i, j) lies at data[i * row_stride + j * col_stride], or with number[i] for i
// where rows are gathered.
template <class T>
struct Operand {
  const T* data;
  Index rows, cols, row_stride, col_stride;
  const Index* number = nullptr;

  Operand(MatrixView<const T> m) : Operand(m.data, m.rows, m.cols, m.stride, 1) {}
  Operand(MatrixView<T> m) : Operand(m.data, m.rows, m.cols, m.stride, 1) {}
  template <int D>
  Operand(TokensView<D, const T> x) : Operand(MatrixView<const T>(x)) {}
  template <int D>
  Operand(Gathered<D, T> x) : Operand(x.x.data, x.count, D, D, 1, x.number) {}
  Operand(const T* p, Index r, Index c, Index rs, Index cs, const Index* n = nullptr)
      : data(p), rows(r), cols(c), row_stride(rs), col_stride(cs), number(n) {}

  Operand transposed() const { return {data, cols, rows, col_stride, row_stride}; }   // of rows not gathered
  Operand rows_at(Rows r) const {
    if (number) return {data, r.count, cols, row_stride, col_stride, number + r.first};
    return {data + r.first * row_stride, r.count, cols, row_stride, col_stride};
  }
  Operand cols_at(Rows c) const {
    return {data + c.first * col_stride, rows, c.count, row_stride, col_stride, number};
  }
  const T* row(Index i) const { return data + (number ? number[i] : i) * row_stride; }
};
template <class T>
Operand<T> transposed(MatrixView<const T> m) {
  return Operand<T>(m).transposed();
}

namespace detail {

// The sizes of blocks: C in 24 of 32 registers or 12 of 16, a panel of B in L1, rows of A in L2.
template <class T>
struct Tile {
#if MOEGPT_VECTOR_BYTES == 64 || defined(__ARM_NEON)
  static constexpr int vectors = 4;
#else
  static constexpr int vectors = 2;
#endif
  static constexpr int MR = 6, NR = vectors * lanes<T>;
  static constexpr Index panel = (MOEGPT_VECTOR_BYTES == 64 ? 32768 : 16384) / Index{sizeof(T)};
  static constexpr Index depth = panel / NR, rows = 512, cached = (3 << 19) / Index{sizeof(T)};
  static constexpr Index large = (1 << 19) / Index{sizeof(T)}, packed_rows = rows + 64 / Index{sizeof(T)};
};

// panel[k][j] = B[k][j], and zero for j beyond its columns. panel [b.rows, cols].
template <class T>
[[gnu::noinline]] void pack(const Operand<T>& b, Index cols, T* panel) {
  constexpr int W = lanes<T>, V = Tile<T>::vectors;
  if (b.col_stride == 1 && b.cols == Tile<T>::NR) {
    for (Index k = 0; k < b.rows; ++k) {
      const T* row = b.row(k);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(panel + (k * V + v) * W, load(row + v * W));
    }
    return;
  }
  if (b.cols < cols) std::memset(panel, 0, bytes_of<T>(b.rows * cols));
  if (b.row_stride == 1 && !b.number)
    return transpose<T>({b.data, b.cols, b.rows, b.col_stride}, {panel, b.rows, b.cols, cols});
  for (Index k = 0; k < b.rows; ++k)
    for (Index j = 0; j < b.cols; ++j) panel[k * cols + j] = b.row(k)[j * b.col_stride];
}

// packed[k][i] = A[i][k]; a row of it is longer than rows are, so that its columns do not meet in the cache.
template <class T>
[[gnu::noinline]] void pack_rows(const Operand<T>& a, T* packed) {
  constexpr Index stride = Tile<T>::packed_rows;
  if (a.col_stride == 1)
    return transpose<T>({a.data, a.rows, a.cols, a.row_stride}, {packed, a.cols, a.rows, stride}, a.number);
  for (Index k = 0; k < a.cols; ++k) std::memcpy(packed + k * stride, a.data + k * a.col_stride, bytes_of<T>(a.rows));
}

// An M x V-vectors block of C = start + A panel. Six rows have a pointer each and may lie anywhere; more share one for
// every three, which processors reach as p, p + stride and p + 2 stride.
template <class T, int M, int V>
[[gnu::noinline]] void micro_kernel(const Operand<T>& a, Index row, const T* panel, const T* start, Index start_row,
                                    T* c, Index c_row) {
  constexpr int W = lanes<T>, shared = M > Tile<T>::MR ? 3 : 1, pointers = (M + shared - 1) / shared;
  Vector<T> sum[M][V] = {};
  if (start)
#pragma GCC unroll 24
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[i][v] = load(start + i * start_row + v * W);
  const T* p[pointers];
#pragma GCC unroll 8
  for (int g = 0; g < pointers; ++g) p[g] = a.row(row + g * shared);
  const Index depth = a.cols, a_row = a.row_stride, a_k = a.col_stride;
  Index at = 0;
  for (Index k = 0; k < depth; ++k, at += a_k) {
    Vector<T> b[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) b[v] = load(panel + (k * V + v) * W);
#pragma GCC unroll 24
    for (int i = 0; i < M; ++i) {
      const T s = shared == 1 ? p[i][at] : p[i / shared][i % shared * a_row];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[i][v] = multiply_add(s, b[v], sum[i][v]);
    }
    if constexpr (shared > 1)
#pragma GCC unroll 8
      for (int g = 0; g < pointers; ++g) p[g] += a_k;
  }
#pragma GCC unroll 24
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(c + i * c_row + v * W, sum[i][v]);
}

// The same for a number of rows up to MR that is known at run time, and a full panel.
template <class T, int M = Tile<T>::MR>
void micro_kernel_of(Index rows, const Operand<T>& a, Index row, const T* panel, const T* start, Index start_row, T* c,
                     Index c_row) {
  if (rows == M)
    micro_kernel<T, M, Tile<T>::vectors>(a, row, panel, start, start_row, c, c_row);
  else if constexpr (M > 1)
    micro_kernel_of<T, M - 1>(rows, a, row, panel, start, start_row, c, c_row);
}

}  // namespace detail
}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
