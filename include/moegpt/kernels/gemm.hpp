#pragma once
// Matrix products (GEMM): C = A B, C = C + A B, C = bias + A B. Attention alone multiplies by
// kernels/tile.hpp. Either operand may be transposed, by its strides, or have its rows gathered. Every
// element of C is one chain of multiply-adds over k = 0, 1, 2 ..., fused where the target has FMA, whatever
// is computed beside it: results do not depend on tiles, threads or batch (laws 5 and 6), except for products
// that a BLAS computes.
//
// Few rows, as an expert with few tokens has, are computed as C^T = B^T A^T, which reads weights once, in place.
#include <moegpt/kernels/blas.hpp>
#include <moegpt/kernels/few_rows.hpp>
#include <moegpt/kernels/micro_kernel.hpp>
#include <moegpt/kernels/reduce.hpp>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

// What is done with a finished block of C, f(rows, columns), while it is in cache. Its columns begin at a multiple of
// the vector's lanes, so that vector sums along a row do not depend on how a product was cut.
using Finish = FunctionRef<Rows, Rows>;

namespace detail {

// One panel's part of C, for rows of A.
template <class T>
void run_panel(const Operand<T>& a, const T* panel, MatrixView<T> c, const T* start, Index start_row) {
  using Tile = detail::Tile<T>;
  const Index tiles = (c.rows + Tile::MR - 1) / Tile::MR, fewest = c.rows / tiles, larger = c.rows % tiles;
  Rows r{0, 0};
  for (Index i = 0; i < tiles; ++i) {
    r = {r.first + r.count, fewest + (i < larger)};
    const T* from = start ? start + r.first * start_row : nullptr;
    if (c.cols == Tile::NR) {
      if (start == c.data && i + 1 < tiles)   // the next block of C is read, too
        for (Index q = r.first + r.count; q < r.first + r.count + fewest; ++q)
          for (Index j = 0; j < Tile::NR; j += 64 / Index{sizeof(T)}) __builtin_prefetch(c[q] + j, 1);
      micro_kernel_of<T>(r.count, a, r.first, panel, from, start_row, c[r.first], c.stride);
      continue;
    }
    T edge[Tile::MR * Tile::NR] = {};
    if (from)
      for (Index q = 0; q < r.count; ++q) std::memcpy(edge + q * Tile::NR, from + q * start_row, bytes_of<T>(c.cols));
    micro_kernel_of<T>(r.count, a, r.first, panel, edge, Tile::NR, edge, Tile::NR);
    for (Index q = 0; q < r.count; ++q) std::memcpy(c[r.first + q], edge + q * Tile::NR, bytes_of<T>(c.cols));
  }
}

// The same for a narrow panel of V vectors, whose blocks have more rows: a router's few experts, the last columns.
template <class T, int V>
[[gnu::noinline]] void run_narrow_panel(const Operand<T>& a, const T* panel, MatrixView<T> c, const T* start,
                                        Index start_row) {
  constexpr int M = Tile<T>::MR * Tile<T>::vectors / V, N = V * lanes<T>;
  T block[M * N] = {};
  for (Index i = 0; i < c.rows; i += M) {
    const Index again = i + M > c.rows ? i + M - c.rows : 0;   // the last block repeats some rows, which are not kept
    for (Index q = again; q < M && start; ++q)
      std::memcpy(block + q * N, start + (i - again + q) * start_row, bytes_of<T>(c.cols));
    micro_kernel<T, M, V>(a, i - again, panel, start ? block : nullptr, N, block, N);
    for (Index q = again; q < M; ++q) std::memcpy(c[i - again + q], block + q * N, bytes_of<T>(c.cols));
  }
}

// Whether so many rows of a large A that many panels meet are packed.
template <class T, class B>
bool packs_rows(Index rows, const Operand<T>& a, const B& b, MatrixView<T> c) {
  using Tile = detail::Tile<T>;
  return rows * b.rows >= Tile::large && c.cols >= 4 * Tile::NR && (a.col_stride == 1 || a.row_stride == 1);
}

// packed: room for a packed A; null: it is not packed.
template <class T, class B>
[[gnu::noinline]] void gemm_by_panels(const Operand<T>& a, const B& b, MatrixView<T> c, Start<T> start,
                                      Finish finish, T* packed) {
  using Tile = detail::Tile<T>;
  alignas(64) T panel[Tile::panel];
  const InputPieces<B> depths{b.rows, Tile::depth};
  const Pieces rows{c.rows, Tile::rows};
  const Index steps = depths.size() > 0 ? depths.size() : 1;   // once even if there is nothing to sum
  for (Index i = 0; i < rows.size(); ++i) {
    const Rows r = rows[i];
    // A is packed one depth at a time; columns are then taken in stretches of C that stay in L2.
    const bool pack_a = packed && packs_rows<T>(r.count, a, b, c);
    const Index fit = Tile::cached / r.count / Tile::NR * Tile::NR, stretch = pack_a && fit > Tile::NR ? fit : c.cols;
    const Index deep = Tile::cached / (r.count * Tile::depth), together = pack_a || deep < 1 ? 1 : deep;
    for (Index n0 = 0; n0 < c.cols; n0 += stretch)
      for (Index first = 0; first < steps; first += together) {
        const Index last = first + together < steps ? first + together : steps;
        Operand<T> left = a.rows_at(r);
        if (pack_a) {
          pack_rows<T>(left.cols_at(depths[first]), packed);
          left = Operand<T>(packed, r.count, depths[first].count, 1, Tile::packed_rows);
        }
        for (Index n = n0; n < c.cols && n < n0 + stretch; n += Tile::NR) {
          const Rows cols{n, c.cols - n < Tile::NR ? c.cols - n : Tile::NR};
          const MatrixView<T> out = c.rows_at(r).cols_at(n, cols.count);
          for (Index k = first; k < last; ++k) {
            const Rows depth = depths.size() > 0 ? depths[k] : Rows{0, 0};
            const B here = b.rows_at(depth).cols_at(cols);
            const Operand<T> mine = left.cols_at(pack_a ? Rows{0, depth.count} : depth);
            const bool resume = k > 0 || start.accumulate;
            const T* from = resume ? out.data : start.bias ? start.bias + n : nullptr;
            const Index from_row = resume ? out.stride : 0, vectors = (cols.count + lanes<T> - 1) / lanes<T>;
            const bool narrow = vectors < Tile::vectors && r.count >= Tile::MR * Tile::vectors && !mine.number;
            pack<T>(here, narrow ? vectors * lanes<T> : Index{Tile::NR}, panel);
            if (!narrow)
              run_panel<T>(mine, panel, out, from, from_row);
            else if (vectors == 1)
              run_narrow_panel<T, 1>(mine, panel, out, from, from_row);
            else if (vectors == 2)
              run_narrow_panel<T, 2>(mine, panel, out, from, from_row);
            else
              run_narrow_panel<T, 3>(mine, panel, out, from, from_row);
          }
          if (finish && last == steps) finish(r, cols);
        }
      }
  }
}

// The buffers take 0.3 to 2 MiB of stack, by the size of the vectors and the scalar: large products alone use them.
template <class T, class B>
[[gnu::noinline]] void gemm_by_packed_panels(const Operand<T>& a, const B& b, MatrixView<T> c, Start<T> start,
                                             Finish finish) {
  alignas(64) T packed[Tile<T>::depth * Tile<T>::packed_rows];
  gemm_by_panels<T>(a, b, c, start, finish, packed);
}

// C = start + A B for at most V vectors of rows, which lie in the lanes.
template <class T, int V>
[[gnu::noinline]] void gemm_rows_in_lanes(const Operand<T>& a, const Operand<T>& b, MatrixView<T> c, Start<T> start,
                                     Finish finish) {
  using Tile = detail::Tile<T>;
  constexpr int W = lanes<T>, N = V * W, M = Tile::MR * Tile::vectors / V, block = 48;
  static_assert(block % M == 0 && block % W == 0);
  alignas(64) T panel[Tile::panel], out[block * N];
  const Pieces depths{b.rows > 0 ? b.rows : 1, Tile::panel / N};
  for (Index k = 0; k < depths.size(); ++k) {
    const Rows depth = b.rows > 0 ? depths[k] : Rows{0, 0};
    if (a.col_stride == 1) {
      if (a.rows < N) std::memset(panel, 0, bytes_of<T>(depth.count * N));
      transpose<T>({a.data + depth.first, a.rows, depth.count, a.row_stride}, {panel, depth.count, a.rows, N},
                   a.number);
    } else {
      pack<T>(a.cols_at(depth).transposed(), N, panel);
    }
    const Operand<T> left = b.rows_at(depth).transposed();
    const bool resume = k > 0 || start.accumulate;
    for (Index n = 0; n < b.cols; n += block) {
      const Index left_over = b.cols - n, count = left_over < block ? left_over : block;
      if (resume) {
        if (c.rows < N) std::memset(out, 0, bytes_of<T>(count * N));   // lanes beyond the rows are added to, too
        transpose<T>({c.data + n, c.rows, count, c.stride}, {out, count, c.rows, N});
      } else {
        for (Index i = 0; i < count * V; ++i)
          store(out + i * W, Vector<T>{} + (start.bias ? start.bias[n + i / V] : T(0)));
      }
      for (Index i = 0; i < count; i += M) {
        if (i + M <= count) {
          micro_kernel<T, M, V>(left, n + i, panel, out + i * N, N, out + i * N, N);
          continue;
        }
        // The last block ends with the last column and repeats some, which are not kept.
        const Index again = i + M - count;
        T tail[M * N] = {};
        std::memcpy(tail + again * N, out + i * N, bytes_of<T>((M - again) * N));
        micro_kernel<T, M, V>(left, n + i - again, panel, tail, N, tail, N);
        std::memcpy(out + i * N, tail + again * N, bytes_of<T>((M - again) * N));
      }
      transpose<T>({out, count, c.rows, N}, {c.data + n, c.rows, count, c.stride});
      if (finish && k + 1 == depths.size()) finish({0, c.rows}, {n, count});
    }
  }
}

// C = start + A B, by BLAS and as one block.
template <class T>
[[gnu::noinline]] void gemm_by_blas(const Operand<T>& a, const Operand<T>& b, MatrixView<T> c, Start<T> start,
                                    Finish finish) {
  const bool biased = start.bias && !start.accumulate;
  for (Index i = 0; i < c.rows && biased; ++i) std::memcpy(c[i], start.bias, sizeof(T) * c.cols);
  blas<T>(a, b, c, start.accumulate || biased ? T(1) : T(0));
  if (finish) finish({0, c.rows}, {0, c.cols});
}

}  // namespace detail

// C = start + A B on one thread.
template <class T>
[[gnu::noinline]] void gemm(Operand<T> a, Operand<T> b, MatrixView<T> c, Start<T> start = {}, Finish finish = {}) {
  constexpr int W = lanes<T>;
  if (c.rows == 0) return;
  if constexpr (build_info().blas)
    if (detail::for_blas<T>(a, b)) return detail::gemm_by_blas<T>(a, b, c, start, finish);
  if (c.rows <= few_rows && c.cols >= W && b.rows > 0 && b.row_stride == 1 && !b.number) {
    detail::gemm_few_rows<T>(a, MatrixView<const T>{b.data, c.cols, b.rows, b.col_stride}, c, start);
    if (finish) finish({0, c.rows}, {0, c.cols});
    return;
  }
  if (c.rows <= 3 * W && b.cols >= 64 && !b.number) {
    if (c.rows <= W) return detail::gemm_rows_in_lanes<T, 1>(a, b, c, start, finish);
    if (c.rows <= 2 * W) return detail::gemm_rows_in_lanes<T, 2>(a, b, c, start, finish);
    return detail::gemm_rows_in_lanes<T, 3>(a, b, c, start, finish);
  }
  if (detail::packs_rows<T>(Pieces{c.rows, detail::Tile<T>::rows}[0].count, a, b, c))
    return detail::gemm_by_packed_panels<T>(a, b, c, start, finish);
  detail::gemm_by_panels<T>(a, b, c, start, finish, nullptr);
}

// The same with weights in narrower storage, B = W^T.
template <class T, class View>
[[gnu::noinline]] void gemm(Operand<T> a, StoredOperand<View> b, MatrixView<T> c, Start<T> start = {},
                            Finish finish = {}) {
  if (c.rows == 0) return;
  if (c.rows <= few_rows && c.cols >= lanes<T>) {
    detail::gemm_few_rows<T>(a, b.w, c, start);
    if (finish) finish({0, c.rows}, {0, c.cols});
  } else if (detail::packs_rows<T>(Pieces{c.rows, detail::Tile<T>::rows}[0].count, a, b, c)) {
    detail::gemm_by_packed_panels<T>(a, b, c, start, finish);
  } else {
    detail::gemm_by_panels<T>(a, b, c, start, finish, nullptr);
  }
}

namespace detail {
template <class T, class B>
void gemm_in_tiles(const Exec& exec, Operand<T> a, B b, MatrixView<T> c, Start<T> start, Finish finish) {
  using Tile = detail::Tile<T>;
  constexpr Index least = 1 << 19;   // multiply-adds of a tile; few rows take the time of reading B
  const Index rows_of_time = c.rows > few_rows ? c.rows : few_rows;
  const Index work = rows_of_time * c.cols * b.rows / least, most = 4 * exec.workers();
  const Index wanted = work < most ? work : most;
  if (exec.workers() == 1 || wanted < 2 || c.rows == 0) return gemm<T>(a, b, c, start, finish);
  const auto divided = [](Index n, Index by) { return (n + by - 1) / by; };
  const Index panels = divided(c.cols, Tile::NR);
  const Pieces cols{panels, divided(panels, wanted)};                     // columns first: rows pack B again
  const Index rows_each = divided(c.rows, divided(wanted, cols.size()));
  const Pieces rows{c.rows, rows_each > 64 ? rows_each : 64};
  exec.parallel_for(rows.size() * cols.size(), [&](Index task) {
    const Rows r = rows[task % rows.size()], p = cols[task / rows.size()];
    const Index first = p.first * Tile::NR, end = first + p.count * Tile::NR;
    const Rows n{first, (end < c.cols ? end : c.cols) - first};
    const auto finish_tile = [&](Rows rows_done, Rows cols_done) {
      finish({r.first + rows_done.first, rows_done.count}, {n.first + cols_done.first, cols_done.count});
    };
    gemm<T>(a.rows_at(r), b.cols_at(n), c.rows_at(r).cols_at(n.first, n.count),
            {start.accumulate, start.bias ? start.bias + n.first : nullptr}, finish ? Finish(finish_tile) : Finish{});
  });
}
}  // namespace detail

// The same, shared out in tiles of C, about four for each thread where there is work for them. How C is cut is part
// of no result.
template <class T>
[[gnu::noinline]] void gemm(const Exec& exec, Operand<T> a, Operand<T> b, MatrixView<T> c, Start<T> start = {},
                            Finish finish = {}) {
  detail::gemm_in_tiles<T>(exec, a, b, c, start, finish);
}
template <class T, class View>
[[gnu::noinline]] void gemm(const Exec& exec, Operand<T> a, StoredOperand<View> b, MatrixView<T> c,
                            Start<T> start = {}, Finish finish = {}) {
  detail::gemm_in_tiles<T>(exec, a, b, c, start, finish);
}

// y = x W^T + b, and its three gradients. x [tokens, in], W [out, in], stored as S, y [tokens, out]; b and db may be
// null.
template <class T, class S = T>
void affine(const Exec& exec, Operand<T> x, StoredView<S> w, const T* b, MatrixView<T> y) {
  gemm<T>(exec, x, transposed<T>(w), y, {.bias = b});
}
// dx = dy W, or dx += dy W
template <class T>
void affine_backward(const Exec& exec, MatrixView<const T> dy, MatrixView<const T> w, MatrixView<T> dx,
                     bool accumulate) {
  gemm<T>(exec, dy, w, dx, {.accumulate = accumulate});
}
// dW += dy^T x,  db += sum_t dy_t, token after token
template <class T>
[[gnu::noinline]] void affine_backward_weights(const Exec& exec, Operand<T> x, MatrixView<const T> dy,
                                               MatrixView<T> dw, T* db) {
  if (!dw.empty()) gemm<T>(exec, transposed<T>(dy), x, dw, {.accumulate = true});
  if (db) sum_rows<T>(exec, dy, db);
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
