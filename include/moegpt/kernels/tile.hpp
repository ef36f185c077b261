#pragma once
// Small matrix products of whole vectors, for operands in L1: no packing and no edges, for attention. Every
// element of C is one chain of multiply-adds over k = 0, 1, 2 ...
#include <moegpt/kernels/transpose.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// n rounded up to whole vectors.
template <class T>
constexpr Index whole_vectors(Index n) {
  return (n + lanes<T> - 1) / lanes<T> * lanes<T>;
}

// Rows of a product of one vector of columns that are computed together: their sums fit the registers.
inline constexpr Index tile_rows = MOEGPT_VECTOR_BYTES == 64 ? 16 : 12;

// The left operand: element (i, k) is data[i * row + k * step].
template <class T>
struct TileOperand {
  const T* data;
  Index row, step;
};

namespace detail {

// c[M][N vectors] = or += sum_k a(., k) b[k]
template <class T, int M, int N>
[[gnu::noinline]] void product_tile(Index depth, TileOperand<T> a, const T* b, Index b_row, T* c, Index c_row,
                                    bool accumulate) {
  constexpr int W = lanes<T>;
  Vector<T> sum[M][N];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sum[i][n] = accumulate ? load(c + i * c_row + n * W) : Vector<T>{};
  constexpr int groups = (M + 2) / 3;  // one pointer per three rows: p, p + row, p + 2 row
  const T* p[groups];
#pragma GCC unroll 8
  for (int g = 0; g < groups; ++g) p[g] = a.data + 3 * g * a.row;
  for (Index k = 0; k < depth; ++k, b += b_row) {
    Vector<T> v[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) v[n] = load(b + n * W);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const T s = p[i / 3][(i % 3) * a.row];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sum[i][n] = multiply_add(s, v[n], sum[i][n]);
    }
#pragma GCC unroll 8
    for (int g = 0; g < groups; ++g) p[g] += a.step;
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) store(c + i * c_row + n * W, sum[i][n]);
}

template <class T, int N>
void product_rows(Index rows, Index depth, TileOperand<T> a, const T* b, Index b_row, T* c, Index c_row,
                  bool accumulate) {
  constexpr int M = tile_rows / N;
  for (; rows >= M; rows -= M, a.data += M * a.row, c += M * c_row)
    product_tile<T, M, N>(depth, a, b, b_row, c, c_row, accumulate);
  for (; rows >= M / 2; rows -= M / 2, a.data += M / 2 * a.row, c += M / 2 * c_row)
    product_tile<T, M / 2, N>(depth, a, b, b_row, c, c_row, accumulate);
  for (; rows > 0; --rows, a.data += a.row, c += c_row)
    product_tile<T, 1, N>(depth, a, b, b_row, c, c_row, accumulate);
}

}  // namespace detail

// c = A b or c += A b: c [rows, b.cols], A [rows, b.rows]; b.cols is whole vectors.
template <class T>
void product(Index rows, TileOperand<T> a, MatrixView<const T> b, T* c, Index c_row, bool accumulate) {
  constexpr int W = lanes<T>;
  Index n = 0;
  for (; n + 2 * W <= b.cols; n += 2 * W)
    detail::product_rows<T, 2>(rows, b.rows, a, b.data + n, b.stride, c + n, c_row, accumulate);
  if (n < b.cols) detail::product_rows<T, 1>(rows, b.rows, a, b.data + n, b.stride, c + n, c_row, accumulate);
}

// panel = scale x, zero beyond x. The rows and columns of panel are whole vectors.
template <class T>
[[gnu::noinline]] void pad(MatrixView<const T> x, T scale, MatrixView<T> panel) {
  for (Index i = 0; i < x.rows; ++i)
    for_each_vector<T>(x.cols, [&](Index j, auto part) { store(panel[i] + j, scale * part.load(x[i] + j)); });
  for (Index i = x.rows; i < panel.rows; ++i) std::memset(panel[i], 0, bytes_of<T>(panel.cols));
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
