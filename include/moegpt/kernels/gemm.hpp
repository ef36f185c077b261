#pragma once
// The one door for products: C = A B, C = C + A B, C = bias + A B, with either operand transposed by strides.
// Every element of C is one chain of fused multiply-adds over k = 0, 1, 2 ..., whatever rows and columns are
// computed beside it: results do not depend on tiles, threads or batch (laws 5 and 6).
//
// Outer-product kernel: an MR x NR block of C stays in registers while one packed panel of B [k][NR] streams
// past and A is broadcast.
#include <moegpt/core/exec.hpp>
#include <moegpt/core/simd.hpp>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

// An operand of a product: element (i, j) lies at data[i * row_stride + j * col_stride].
template <class T>
struct Operand {
  const T* data;
  Index rows, cols, row_stride, col_stride;

  Operand(MatrixView<const T> m) : Operand(m.data, m.rows, m.cols, m.stride, 1) {}
  Operand(MatrixView<T> m) : Operand(m.data, m.rows, m.cols, m.stride, 1) {}
  Operand(const T* p, Index r, Index c, Index rs, Index cs)
      : data(p), rows(r), cols(c), row_stride(rs), col_stride(cs) {}
  Operand transposed() const { return {data, cols, rows, col_stride, row_stride}; }
  Operand rows_at(Rows r) const { return {data + r.first * row_stride, r.count, cols, row_stride, col_stride}; }
  Operand cols_at(Rows c) const { return {data + c.first * col_stride, rows, c.count, row_stride, col_stride}; }
};
template <class T>
Operand<T> transposed(MatrixView<const T> m) {
  return Operand<T>(m).transposed();
}

// What a product starts from: zero, the old C (accumulate), or a bias that is the same for every row.
template <class T>
struct Start {
  bool accumulate = false;
  const T* bias = nullptr;
};

namespace detail {

template <class T>
struct Tile {
  static constexpr int W = lanes<T>;
  static constexpr int vectors = 2;                                        // per row of C
  static constexpr int NR = vectors * W;
  static constexpr int MR = (MOEGPT_VECTOR_BYTES == 64) ? 12 : 6;          // MR * vectors accumulators
  static constexpr Index depth = 32768 / (NR * static_cast<int>(sizeof(T)));  // a panel is 32 KiB
};

// panel[k][j] = B[k0 + k][n0 + j], zero where j >= width.
template <class T>
void pack_panel(const Operand<T>& b, Index k0, Index depth, Index n0, Index width, T* panel) {
  constexpr int NR = Tile<T>::NR;
  const T* source = b.data + k0 * b.row_stride + n0 * b.col_stride;
  if (b.col_stride == 1 && width == NR) {
    for (Index k = 0; k < depth; ++k) std::memcpy(panel + k * NR, source + k * b.row_stride, NR * sizeof(T));
    return;
  }
  constexpr Index block = 16;   // rows of the transpose kept in L1 together
  for (Index k1 = 0; k1 < depth; k1 += block) {
    const Index k2 = k1 + block < depth ? k1 + block : depth;
    for (Index j = 0; j < width; ++j)
      for (Index k = k1; k < k2; ++k) panel[k * NR + j] = source[k * b.row_stride + j * b.col_stride];
    for (Index k = k1; k < k2; ++k)
      for (Index j = width; j < NR; ++j) panel[k * NR + j] = 0;
  }
}

// One M x NR block of C.
template <class T, int M>
[[gnu::noinline]] void micro_kernel(Index depth, const T* a, Index a_row, Index a_k, const T* panel, T* c,
                                    Index c_row, Index width, const T* start, Index start_row) {
  constexpr int W = Tile<T>::W, NV = Tile<T>::vectors, NR = Tile<T>::NR;
  Vector<T> acc[M][NV];
  if (start == nullptr) {
    for (int i = 0; i < M; ++i)
      for (int v = 0; v < NV; ++v) acc[i][v] = Vector<T>{};
  } else if (width == NR) {
    for (int i = 0; i < M; ++i)
      for (int v = 0; v < NV; ++v) acc[i][v] = load(start + i * start_row + v * W);
  } else {
    for (int i = 0; i < M; ++i) {
      T edge[NR] = {};
      for (Index j = 0; j < width; ++j) edge[j] = start[i * start_row + j];
      for (int v = 0; v < NV; ++v) acc[i][v] = load(edge + v * W);
    }
  }
  // One pointer for every three rows: x86 and ARM reach the others as p + stride and p + 2 stride.
  constexpr int groups = (M + 2) / 3;
  const T* p[groups];
  for (int g = 0; g < groups; ++g) p[g] = a + 3 * g * a_row;
  for (Index k = 0; k < depth; ++k) {
    Vector<T> b[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) b[v] = load(panel + k * NR + v * W);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const T s = p[i / 3][(i % 3) * a_row];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[i][v] += s * b[v];
    }
#pragma GCC unroll 8
    for (int g = 0; g < groups; ++g) p[g] += a_k;
  }
  if (width == NR) {
    for (int i = 0; i < M; ++i)
      for (int v = 0; v < NV; ++v) store(c + i * c_row + v * W, acc[i][v]);
  } else {
    for (int i = 0; i < M; ++i) {
      T edge[NR];
      for (int v = 0; v < NV; ++v) store(edge + v * W, acc[i][v]);
      for (Index j = 0; j < width; ++j) c[i * c_row + j] = edge[j];
    }
  }
}

template <class T, int M = Tile<T>::MR>
void run_rows(Index rows, Index depth, const T* a, Index a_row, Index a_k, const T* panel, T* c, Index c_row,
              Index width, const T* start, Index start_row) {
  Index i = 0;
  for (; i + M <= rows; i += M)
    micro_kernel<T, M>(depth, a + i * a_row, a_row, a_k, panel, c + i * c_row, c_row, width,
                       start ? start + i * start_row : nullptr, start_row);
  if constexpr (M > 1)
    if (i < rows)
      run_rows<T, (M == 12 ? 8 : M == 8 ? 4 : M == 6 ? 4 : M / 2)>(
          rows - i, depth, a + i * a_row, a_row, a_k, panel, c + i * c_row, c_row, width,
          start ? start + i * start_row : nullptr, start_row);
}

}  // namespace detail

// C = start + A B on one thread.
template <class T>
[[gnu::noinline]] void gemm(Operand<T> a, Operand<T> b, MatrixView<T> c, Start<T> start = {}) {
  using Tile = detail::Tile<T>;
  alignas(64) T panel[Tile::depth * Tile::NR];
  for (Index n = 0; n < b.cols; n += Tile::NR) {
    const Index width = b.cols - n < Tile::NR ? b.cols - n : Tile::NR;
    Index k = 0;
    do {   // once even if there is nothing to sum: C is then its start
      const Index depth = b.rows - k < Tile::depth ? b.rows - k : Tile::depth;
      detail::pack_panel(b, k, depth, n, width, panel);
      T* out = c.data + n;
      const bool resume = k > 0 || start.accumulate;
      const T* from = resume ? out : start.bias ? start.bias + n : nullptr;
      detail::run_rows<T>(c.rows, depth, a.data + k * a.col_stride, a.row_stride, a.col_stride, panel, out,
                          c.stride, width, from, resume ? c.stride : 0);
      k += depth;
    } while (k < b.rows);
  }
}

// The same, shared out in tiles of C.
template <class T>
void gemm(const Exec& exec, Operand<T> a, Operand<T> b, MatrixView<T> c, Start<T> start = {}) {
  const Pieces rows{c.rows, 240}, cols{c.cols, 4 * detail::Tile<T>::NR};
  exec.parallel_for(rows.size() * cols.size(), [&](Index task) {
    const Rows r = rows[task % rows.size()];
    const Index first = task / rows.size() * cols.limit;
    const Rows n{first, c.cols - first < cols.limit ? c.cols - first : cols.limit};
    gemm<T>(a.rows_at(r), b.cols_at(n), c.rows_at(r).cols_at(n.first, n.count),
            {start.accumulate, start.bias ? start.bias + n.first : nullptr});
  });
}

// y = x W^T + b, and its three gradients. x [tokens, in], W [out, in], y [tokens, out]; b and db may be null.
template <class T>
[[gnu::noinline]] void affine(const Exec& exec, MatrixView<const T> x, MatrixView<const T> w, const T* b,
                              MatrixView<T> y) {
  gemm<T>(exec, x, transposed<T>(w), y, {.bias = b});
}
// dx = dy W, or dx += dy W
template <class T>
[[gnu::noinline]] void affine_backward(const Exec& exec, MatrixView<const T> dy, MatrixView<const T> w,
                                       MatrixView<T> dx, bool accumulate) {
  gemm<T>(exec, dy, w, dx, {.accumulate = accumulate});
}
// dW += dy^T x,  db += sum_t dy_t, token after token
template <class T>
[[gnu::noinline]] void affine_backward_weights(const Exec& exec, MatrixView<const T> x, MatrixView<const T> dy,
                                               MatrixView<T> dw, T* db) {
  if (!dw.empty()) gemm<T>(exec, transposed<T>(dy), x, dw, {.accumulate = true});
  if (db)
    for (Index t = 0; t < dy.rows; ++t)
      for (Index j = 0; j < dy.cols; ++j) db[j] += dy[t][j];
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
