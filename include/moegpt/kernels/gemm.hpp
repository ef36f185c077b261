#pragma once
// Matrix product (GEMM): C = A B, C += A B, or C = bias + A B, with A [M, K], B [K, N], C [M, N]. Either
// operand may be transposed, by its strides, or have gathered rows. Every element of C is one chain of
// multiply-adds over k = 0, 1, 2 ..., fused where the target has FMA. So results do not depend on blocking,
// threads or batch (invariants 5 and 6), except for products that a BLAS computes. Attention has its own
// product (kernels/tile.hpp).
//
// Few rows times transposed weights, as in generation, are computed by kernels/few_rows.hpp; other small M as
// C^T = B^T A^T, which reads weights once, without packing.
#include <moegpt/kernels/blas.hpp>
#include <moegpt/kernels/few_rows.hpp>
#include <moegpt/kernels/panels.hpp>
#include <moegpt/kernels/reduce.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// f(rows, columns) for each finished block of C while it is in cache. Blocks begin at columns that are
// multiples of the vector's lanes, so vector sums along a row do not depend on the blocking.
using Epilogue = FunctionRef<Rows, Rows>;

namespace detail {

// C = initial + A panel, for a packed panel of B. `initial` is null (zero) or has rows `initial_row` apart.
template <class T>
void run_panel(const Operand<T>& a, const T* panel, MatrixView<T> c, const T* initial, Index initial_row) {
  using Tile = detail::Tile<T>;
  const Index tiles = (c.rows + Tile::MR - 1) / Tile::MR, least = c.rows / tiles, larger = c.rows % tiles;
  Rows r{0, 0};
  for (Index i = 0; i < tiles; ++i) {
    r = {r.first + r.count, least + (i < larger)};
    const T* from = initial ? initial + r.first * initial_row : nullptr;
    if (c.cols == Tile::NR) {
      if (initial == c.data && i + 1 < tiles)  // the next tile of C is read, too
        for (Index q = r.first + r.count; q < r.first + r.count + least; ++q)
          for (Index j = 0; j < Tile::NR; j += 64 / Index{sizeof(T)}) __builtin_prefetch(c[q] + j, 1);
      micro_kernel_of<T>(r.count, a, r.first, panel, from, initial_row, c[r.first], c.stride);
      continue;
    }
    T edge[Tile::MR * Tile::NR] = {};
    if (from)
      for (Index q = 0; q < r.count; ++q)
        std::memcpy(edge + q * Tile::NR, from + q * initial_row, bytes_of<T>(c.cols));
    micro_kernel_of<T>(r.count, a, r.first, panel, edge, Tile::NR, edge, Tile::NR);
    for (Index q = 0; q < r.count; ++q) std::memcpy(c[r.first + q], edge + q * Tile::NR, bytes_of<T>(c.cols));
  }
}

// The same for a panel of V < Tile::vectors vectors, with taller tiles: a router's few experts, the last
// columns.
template <class T, int V>
[[gnu::noinline]] void run_narrow_panel(const Operand<T>& a, const T* panel, MatrixView<T> c,
                                        const T* initial, Index initial_row) {
  constexpr int M = Tile<T>::MR * Tile<T>::vectors / V, N = V * lanes<T>;
  T block[M * N] = {};
  for (Index i = 0; i < c.rows; i += M) {
    const Index repeated = i + M > c.rows ? i + M - c.rows : 0;  // of the last tile, not stored
    for (Index q = repeated; q < M && initial; ++q)
      std::memcpy(block + q * N, initial + (i - repeated + q) * initial_row, bytes_of<T>(c.cols));
    micro_kernel<T, M, V>(a, i - repeated, panel, initial ? block : nullptr, N, block, N);
    for (Index q = repeated; q < M; ++q) std::memcpy(c[i - repeated + q], block + q * N, bytes_of<T>(c.cols));
  }
}

// C [MC, <= NR] = initial + A [MC, KC] B [KC, <= NR]: packs B into `panel`, unless it lies packed, then loops
// over the tiles of C.
template <class T, class B>
void multiply_panel(const Operand<T>& a, const B& b, MatrixView<T> c, const T* initial, Index initial_row,
                    T* panel) {
  using Tile = detail::Tile<T>;
  if (const T* const packed = packed_in_place<T>(b)) return run_panel<T>(a, packed, c, initial, initial_row);
  const Index vectors = (c.cols + lanes<T> - 1) / lanes<T>;
  const bool narrow = vectors < Tile::vectors && c.rows >= Tile::MR * Tile::vectors && !a.index;
  pack<T>(b, narrow ? vectors * lanes<T> : Index{Tile::NR}, panel);
  if (!narrow)
    run_panel<T>(a, panel, c, initial, initial_row);
  else if (vectors == 1)
    run_narrow_panel<T, 1>(a, panel, c, initial, initial_row);
  else if (vectors == 2)
    run_narrow_panel<T, 2>(a, panel, c, initial, initial_row);
  else
    run_narrow_panel<T, 3>(a, panel, c, initial, initial_row);
}

// Cache blocking, with the names of GotoBLAS and BLIS (Goto, van de Geijn 2008): a block of A [MC, KC] is
// used for NC columns of C, one packed panel of B [KC, NR] at a time.
struct Blocking {
  bool pack_a;  // copy blocks of A, which then stay in L2: for a large A that is used for many panels
  Index MC, NC, KC;
  Index depths;  // K blocks of a panel of C before the next panel: unpacked A [MC, depths KC] stays in L2
};

template <class T>
Blocking blocking(const Operand<T>& a, Index N) {
  using Tile = detail::Tile<T>;
  const Index MC = Pieces{a.rows, Tile::MC}[0].count, KC = Tile::KC;
  const bool plain = a.col_stride == 1 || a.row_stride == 1;
  if (plain && MC * a.cols >= Tile::l2 / 3 && N >= 4 * Tile::NR)
    return {true, MC, Tile::l2 / MC / Tile::NR * Tile::NR, KC, 1};  // C [MC, NC] stays in L2
  const Index depths = Tile::l2 / (MC * KC);
  return {false, MC, N, KC, depths > 1 ? depths : 1};
}

// packed: [KC, packed_stride] if block.pack_a.
template <class T, class B>
[[gnu::noinline]] void gemm_by_blocks(const Operand<T>& a, const B& b, MatrixView<T> c, InitialC<T> initial,
                                      Epilogue epilogue, const Blocking& block, T* packed) {
  using Tile = detail::Tile<T>;
  alignas(64) T panel[Tile::KC * Tile::NR];
  const Pieces rows{c.rows, block.MC};
  const InputPieces<B> depths{b.rows, block.KC};
  const Index steps = depths.size() > 0 ? depths.size() : 1;  // K = 0: one step, which stores the initial C
  for (Index ic = 0; ic < rows.size(); ++ic) {
    const Rows r = rows[ic];
    const Operand<T> a_rows = a.rows_at(r);
    for (Index jc = 0; jc < c.cols; jc += block.NC)
      for (Index pc = 0; pc < steps; pc += block.depths) {
        const Index p_end = pc + block.depths < steps ? pc + block.depths : steps;
        if (block.pack_a) pack_rows<T>(a_rows.cols_at(depths[pc]), packed);
        for (Index jr = jc; jr < c.cols && jr < jc + block.NC; jr += Tile::NR) {
          const Rows cols{jr, c.cols - jr < Tile::NR ? c.cols - jr : Tile::NR};
          const MatrixView<T> out = c.rows_at(r).cols_at(jr, cols.count);
          for (Index p = pc; p < p_end; ++p) {
            const Rows depth = depths.size() > 0 ? depths[p] : Rows{0, 0};
            const Operand<T> a_block = block.pack_a
                                           ? Operand<T>(packed, r.count, depth.count, 1, Tile::packed_stride)
                                           : a_rows.cols_at(depth);
            const bool resume = p > 0 || initial.accumulate;
            const T* from = resume ? out.data : initial.bias ? initial.bias + jr : nullptr;
            multiply_panel<T>(a_block, b.rows_at(depth).cols_at(cols), out, from, resume ? out.stride : 0,
                              panel);
          }
          if (epilogue && p_end == steps) epilogue(r, cols);
        }
      }
  }
}

// The packed block takes 0.3 to 2 MiB of stack, depending on vector and scalar: only large products use it.
template <class T, class B>
[[gnu::noinline]] void gemm_with_packed_a(const Operand<T>& a, const B& b, MatrixView<T> c,
                                          InitialC<T> initial, Epilogue epilogue, const Blocking& block) {
  alignas(64) T packed[Tile<T>::KC * Tile<T>::packed_stride];
  gemm_by_blocks<T>(a, b, c, initial, epilogue, block, packed);
}

// C^T = initial^T + B^T A^T for M <= V lanes<T>: rows of C are lanes.
template <class T, int V>
[[gnu::noinline]] void gemm_small_m(const Operand<T>& a, const Operand<T>& b, MatrixView<T> c,
                                    InitialC<T> initial, Epilogue epilogue) {
  using Tile = detail::Tile<T>;
  constexpr int W = lanes<T>, N = V * W, M = Tile::MR * Tile::vectors / V, block = 48;
  static_assert(block % M == 0 && block % W == 0);
  constexpr Index panel_size = Tile::KC * Tile::NR;
  alignas(64) T panel[panel_size], out[block * N];
  const Pieces depths{b.rows > 0 ? b.rows : 1, panel_size / N};
  for (Index k = 0; k < depths.size(); ++k) {
    const Rows depth = b.rows > 0 ? depths[k] : Rows{0, 0};
    if (a.col_stride == 1) {
      if (a.rows < N) std::memset(panel, 0, bytes_of<T>(depth.count * N));
      transpose<T>({a.data + depth.first, a.rows, depth.count, a.row_stride}, {panel, depth.count, a.rows, N},
                   a.index);
    } else {
      pack<T>(a.cols_at(depth).transposed(), N, panel);
    }
    const Operand<T> left = b.rows_at(depth).transposed();
    const bool resume = k > 0 || initial.accumulate;
    for (Index n = 0; n < b.cols; n += block) {
      const Index count = b.cols - n < block ? b.cols - n : block;
      if (resume) {
        if (c.rows < N)
          std::memset(out, 0, bytes_of<T>(count * N));  // lanes beyond the rows are added to, too
        transpose<T>({c.data + n, c.rows, count, c.stride}, {out, count, c.rows, N});
      } else {
        for (Index i = 0; i < count * V; ++i)
          store(out + i * W, Vector<T>{} + (initial.bias ? initial.bias[n + i / V] : T(0)));
      }
      for (Index i = 0; i < count; i += M) {
        if (i + M <= count) {
          micro_kernel<T, M, V>(left, n + i, panel, out + i * N, N, out + i * N, N);
          continue;
        }
        // The last tile ends at the last column. Columns that it computes repeated are not stored.
        const Index repeated = i + M - count;
        T tail[M * N] = {};
        std::memcpy(tail + repeated * N, out + i * N, bytes_of<T>((M - repeated) * N));
        micro_kernel<T, M, V>(left, n + i - repeated, panel, tail, N, tail, N);
        std::memcpy(out + i * N, tail + repeated * N, bytes_of<T>((M - repeated) * N));
      }
      transpose<T>({out, count, c.rows, N}, {c.data + n, c.rows, count, c.stride});
      if (epilogue && k + 1 == depths.size()) epilogue({0, c.rows}, {n, count});
    }
  }
}

// C = initial + A B by BLAS, as one block.
template <class T>
[[gnu::noinline]] void gemm_by_blas(const Operand<T>& a, const Operand<T>& b, MatrixView<T> c,
                                    InitialC<T> initial, Epilogue epilogue) {
  const bool biased = initial.bias && !initial.accumulate;
  for (Index i = 0; i < c.rows && biased; ++i) std::memcpy(c[i], initial.bias, sizeof(T) * c.cols);
  blas<T>(a, b, c, initial.accumulate || biased ? T(1) : T(0));
  if (epilogue) epilogue({0, c.rows}, {0, c.cols});
}

}  // namespace detail

// C = initial + A B on one thread. B is an Operand, or weights in panels: WeightOperand<T, S>.
template <class T, class B = Operand<T>>
[[gnu::noinline]] void gemm(Operand<T> a, std::type_identity_t<B> b, MatrixView<T> c,
                            InitialC<T> initial = {}, Epilogue epilogue = {}) {
  constexpr int W = lanes<T>;
  constexpr bool plain = std::same_as<B, Operand<T>>;
  if (c.rows == 0) return;
  if constexpr (plain && build_info().blas)
    if (detail::for_blas<T>(a, b)) return detail::gemm_by_blas<T>(a, b, c, initial, epilogue);
  bool few = c.rows <= detail::few_rows_of<B>;
  if constexpr (plain)  // with more than 8 rows, a B that stays in cache takes less time as the left operand
    few = few && c.cols >= W && b.is_transposed() && !(c.rows > 8 && c.cols * b.rows < Index{1} << 18);
  if (few) {
    if constexpr (plain)
      detail::gemm_few_rows<T>(a, b.weights(), c, initial);
    else
      detail::gemm_few_rows(a, b.w, c, initial);
    if (epilogue) epilogue({0, c.rows}, {0, c.cols});
    return;
  }
  if constexpr (plain)
    if (c.rows <= 3 * W && b.cols >= 64 && !b.index) {
      if (c.rows <= W) return detail::gemm_small_m<T, 1>(a, b, c, initial, epilogue);
      if (c.rows <= 2 * W) return detail::gemm_small_m<T, 2>(a, b, c, initial, epilogue);
      return detail::gemm_small_m<T, 3>(a, b, c, initial, epilogue);
    }
  const detail::Blocking block = detail::blocking<T>(a, c.cols);
  if (block.pack_a) return detail::gemm_with_packed_a<T>(a, b, c, initial, epilogue, block);
  detail::gemm_by_blocks<T>(a, b, c, initial, epilogue, block, nullptr);
}

// The same on the threads of exec: tasks are blocks of C, about four per thread if each has enough work.
// Results do not depend on the partition.
template <class T, class B = Operand<T>>
[[gnu::noinline]] void gemm(const Exec& exec, Operand<T> a, std::type_identity_t<B> b, MatrixView<T> c,
                            InitialC<T> initial = {}, Epilogue epilogue = {}) {
  constexpr Index unit = detail::column_unit<T, B>;
  constexpr Index least = 1 << 19;  // multiply-adds of a task; few rows take as long as reading B
  const Index work = (c.rows > few_rows ? c.rows : few_rows) * c.cols * b.rows / least;
  const Index most = 4 * exec.workers(), tasks = work < most ? work : most;
  if (exec.workers() == 1 || tasks < 2 || c.rows == 0) return gemm<T, B>(a, b, c, initial, epilogue);
  const auto divided = [](Index n, Index by) { return (n + by - 1) / by; };
  const Index panels = divided(c.cols, unit);
  const Pieces cols{panels, divided(panels, tasks)};  // columns first: every block of rows packs B again
  const Index rows_each = divided(c.rows, divided(tasks, cols.size()));
  const Pieces rows{c.rows, rows_each > 64 ? rows_each : 64};
  exec.parallel_for(rows.size() * cols.size(), [&](Index task) {
    const Rows r = rows[task % rows.size()], p = cols[task / rows.size()];
    const Index first = p.first * unit, end = first + p.count * unit;
    const Rows n{first, (end < c.cols ? end : c.cols) - first};
    const auto epilogue_of_task = [&](Rows of, Rows columns) {
      epilogue({r.first + of.first, of.count}, {n.first + columns.first, columns.count});
    };
    gemm<T, B>(a.rows_at(r), b.cols_at(n), c.rows_at(r).cols_at(n.first, n.count),
               {initial.accumulate, initial.bias ? initial.bias + n.first : nullptr},
               epilogue ? Epilogue(epilogue_of_task) : Epilogue{});
  });
}

// y = x W^T + b and its three gradients: x [tokens, in], W [out, in], y [tokens, out]. b and db may be null;
// forward reads a W stored as S.
template <class T, class S = T>
void affine(const Exec& exec, Operand<T> x, StoredView<S> w, const T* b, MatrixView<T> y) {
  gemm<T, WeightOperand<T, S>>(exec, x, transposed<T>(w), y, {.bias = b});
}
// dx = dy W, or dx += dy W
template <class T>
void affine_backward(const Exec& exec, MatrixView<const T> dy, MatrixView<const T> w, MatrixView<T> dx,
                     bool accumulate) {
  gemm<T>(exec, dy, w, dx, {.accumulate = accumulate});
}
// dW += dy^T x,  db += sum_t dy_t, in token order
template <class T>
[[gnu::noinline]] void affine_backward_weights(const Exec& exec, Operand<T> x, MatrixView<const T> dy,
                                               MatrixView<T> dw, T* db) {
  if (!dw.empty()) gemm<T>(exec, transposed<T>(dy), x, dw, {.accumulate = true});
  if (db) sum_rows<T>(exec, dy, db);
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
