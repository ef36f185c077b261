#pragma once
// The micro-kernel of kernels/gemm.hpp and its packing. A tile of C stays in registers while rows of a packed
// panel of B are loaded and elements of A are broadcast.
#include <moegpt/kernels/transpose.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// A matrix of a product: element (i, j) is data[i * row_stride + j * col_stride], with index[i] for i if rows
// are gathered.
template <class T>
struct Operand {
  const T* data;
  Index rows, cols, row_stride, col_stride;
  const Index* index = nullptr;

  Operand(MatrixView<const T> m) : Operand(m.data, m.rows, m.cols, m.stride, 1) {}
  Operand(MatrixView<T> m) : Operand(m.data, m.rows, m.cols, m.stride, 1) {}
  template <int D>
  Operand(TokensView<D, const T> x) : Operand(MatrixView<const T>(x)) {}
  template <int D>
  Operand(Gathered<D, T> x) : Operand(x.x.data, x.count, D, D, 1, x.index) {}
  Operand(const T* p, Index r, Index c, Index rs, Index cs, const Index* n = nullptr)
      : data(p), rows(r), cols(c), row_stride(rs), col_stride(cs), index{n} {}

  Operand transposed() const { return {data, cols, rows, col_stride, row_stride}; }  // not of gathered rows
  Operand rows_at(Rows r) const {
    if (index) return {data, r.count, cols, row_stride, col_stride, index + r.first};
    return {data + r.first * row_stride, r.count, cols, row_stride, col_stride};
  }
  Operand cols_at(Rows c) const {
    return {data + c.first * col_stride, rows, c.count, row_stride, col_stride, index};
  }
  // B = W^T of a matrix of weights, and that.
  bool is_transposed() const { return row_stride == 1 && !index && rows > 0; }
  MatrixView<const T> weights() const { return {data, cols, rows, col_stride}; }
  const T* row(Index i) const { return data + (index ? index[i] : i) * row_stride; }
};
template <class T>
Operand<T> transposed(MatrixView<const T> m) {
  return Operand<T>(m).transposed();
}

namespace detail {

// Sizes of blocks for this unit's vectors, with the names of GotoBLAS and BLIS.
template <class T>
struct Tile {
#if MOEGPT_VECTOR_BYTES == 64 || defined(__ARM_NEON)
  static constexpr int vectors = 4;
#else
  static constexpr int vectors = 2;
#endif
  static constexpr int MR = 6, NR = vectors * lanes<T>;  // C [MR, NR] in 24 of 32 registers, or in 12 of 16
  static constexpr Index KC =
      (MOEGPT_VECTOR_BYTES == 64 ? 32768 : 16384) / (NR * Index{sizeof(T)});  // B [KC, NR] in L1
  static constexpr Index MC = 512;                                            // rows of a block of A
  static constexpr Index l2 = (3 << 19) / Index{sizeof(T)};           // elements that stay in L2: 1.5 MiB
  static constexpr Index packed_stride = MC + 64 / Index{sizeof(T)};  // no power of two: see pack_rows
};

// panel [b.rows, cols] = B, zero in columns beyond those of B.
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
  if (b.row_stride == 1 && !b.index)
    return transpose<T>({b.data, b.cols, b.rows, b.col_stride}, {panel, b.rows, b.cols, cols});
  for (Index k = 0; k < b.rows; ++k)
    for (Index j = 0; j < b.cols; ++j) panel[k * cols + j] = b.row(k)[j * b.col_stride];
}

// packed[k][i] = A[i][k]. Its rows are one cache line longer than MC, so that columns do not share cache
// sets.
template <class T>
[[gnu::noinline]] void pack_rows(const Operand<T>& a, T* packed) {
  constexpr Index stride = Tile<T>::packed_stride;
  if (a.col_stride == 1)
    return transpose<T>({a.data, a.rows, a.cols, a.row_stride}, {packed, a.cols, a.rows, stride}, a.index);
  for (Index k = 0; k < a.cols; ++k)
    std::memcpy(packed + k * stride, a.data + k * a.col_stride, bytes_of<T>(a.rows));
}

// C [M, V vectors] = initial + A panel, for rows `row` .. `row` + M - 1 of A. Up to MR rows have one pointer
// each and may be gathered. Of more rows three share a pointer, addressed as p, p + stride and p + 2 stride.
template <class T, int M, int V>
[[gnu::noinline]] void micro_kernel(const Operand<T>& a, Index row, const T* panel, const T* initial,
                                    Index initial_row, T* c, Index c_row) {
  constexpr int W = lanes<T>, shared = M > Tile<T>::MR ? 3 : 1, pointers = (M + shared - 1) / shared;
  Vector<T> sum[M][V] = {};
  if (initial)
#pragma GCC unroll 24
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[i][v] = load(initial + i * initial_row + v * W);
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

// The same for 1 <= rows <= MR at run time and a full panel.
template <class T, int M = Tile<T>::MR>
void micro_kernel_of(Index rows, const Operand<T>& a, Index row, const T* panel, const T* initial,
                     Index initial_row, T* c, Index c_row) {
  if (rows == M)
    micro_kernel<T, M, Tile<T>::vectors>(a, row, panel, initial, initial_row, c, c_row);
  else if constexpr (M > 1)
    micro_kernel_of<T, M - 1>(rows, a, row, panel, initial, initial_row, c, c_row);
}

}  // namespace detail
}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
