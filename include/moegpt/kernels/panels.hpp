#pragma once
// Products with weights in panels (core/panels.hpp): C = initial + A W^T with few rows, and the packing of
// panels for the product of many rows. Elements are read from memory as they are stored and widened in
// registers.
#include <moegpt/core/exec.hpp>
#include <moegpt/core/number.hpp>
#include <moegpt/kernels/few_rows.hpp>
#include <moegpt/kernels/micro_kernel.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// B = W^T of weights in panels, for View = ConstPanelsView<S>.
template <class View>
struct PanelsOperand {
  View w;
  Index rows = w.cols, cols = w.rows;
  explicit PanelsOperand(View weights) : w(weights) {}
  PanelsOperand rows_at(Rows r) const { return PanelsOperand(w.cols_at(r)); }
  PanelsOperand cols_at(Rows c) const { return PanelsOperand(w.rows_at(c)); }
};
// B = W^T of weights stored as S.
template <class T, class S>
using WeightOperand = std::conditional_t<std::same_as<S, T>, Operand<T>, PanelsOperand<StoredView<S>>>;
template <class T, class S>
auto transposed(PanelsView<S, const typename Panels<S>::Unit> w) {
  return PanelsOperand(w);
}

namespace detail {

// Pieces of the inputs begin at multiples of this number, so that a block has all of its scale.
template <class B>
inline constexpr Index piece_unit = 1;
template <>
inline constexpr Index piece_unit<PanelsOperand<ConstPanelsView<INT8>>> = INT8::block;
// As Pieces, but in whole units. `limit` is a multiple of the unit.
template <class B>
struct InputPieces {
  static constexpr Index unit = piece_unit<B>;
  Index count;
  Pieces units;
  InputPieces(Index inputs, Index limit) : count(inputs), units{(inputs + unit - 1) / unit, limit / unit} {}
  Index size() const { return units.size(); }
  Rows operator[](Index piece) const {
    const Rows u = units[piece];
    const Index first = u.first * unit, end = (u.first + u.count) * unit;
    return {first, (end < count ? end : count) - first};
  }
};
// Tasks of a product begin at multiples of this number of columns.
template <class T, class B>
inline constexpr Index column_unit = Tile<T>::NR;
template <class T, class View>
inline constexpr Index column_unit<T, PanelsOperand<View>> =
    std::max<Index>(Tile<T>::NR, View::Storage::rows);

// A vector of elements as numbers. By intrinsics, because g++ 12 extends the elements of a converted vector
// one by one.
[[gnu::always_inline]] inline Vector<float> widen(const float* p) { return load(p); }
[[gnu::always_inline]] inline Vector<float> widen(const BF16* p) {
#if defined(__AVX512F__)
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
#elif defined(__AVX2__)
  const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
#else
  Vector<float> v;
  for (int i = 0; i < lanes<float>; ++i) v[i] = p[i];
  return v;
#endif
}
[[gnu::always_inline]] inline Vector<float> widen(const std::int8_t* p) {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  Vector<float> v;
  for (int i = 0; i < lanes<float>; ++i) v[i] = static_cast<float>(p[i]);
  return v;
#endif
}
// Prefetches a stream, at some addresses for every input.
template <int addresses>
struct Prefetch {
  std::intptr_t next = 0;  // address, not a pointer: it may lie beyond the weights
  Index step = 0;          // bytes for an input
  [[gnu::always_inline]] void operator()() {
    if constexpr (addresses > 0) {
#pragma GCC unroll 4
      for (int i = 0; i < addresses; ++i)
        __builtin_prefetch(reinterpret_cast<const void*>(next + i * step / addresses), 0, 3);
    }
    next += step;
  }
};

// f(g, k, w[.][k]) for every input k in order, where lanes are outputs: rows `row` + g lanes<float> of w on,
// for g < G. All are in one panel.
template <int G, class S, class P, class F>
[[gnu::always_inline]] inline void for_each_input(const ConstPanelsView<S>& w, Index row, P prefetch, F&& f) {
  constexpr int W = lanes<float>;
  const Index stride = w.panel_rows(row);
  if constexpr (std::same_as<S, INT8>) {
    for (Index first = 0; first < w.cols; first += INT8::block) {
      const std::int8_t* p = w.at(row, first);
      Vector<float> scale[G];
      std::memcpy(&scale, w.scale_at(row, first), sizeof scale);
      const Index end = first + INT8::block < w.cols ? first + INT8::block : w.cols;
      for (Index k = first; k < end; ++k, p += stride) {
        prefetch();
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) f(g, k, widen(p + g * W) * scale[g]);
      }
    }
  } else {
    const auto* p = w.at(row, 0);
    for (Index k = 0; k < w.cols; ++k, p += stride) {
      prefetch();
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) f(g, k, widen(p + g * W));
    }
  }
}

// C = initial + A W^T for at most M rows and G lanes<float> columns of C from n on, of which the last vector
// may end beyond the last column. a [w.cols, R]
template <int R, int M, int G, class View, class P>
[[gnu::noinline]] void panel_columns(const float* a, const View& w, Index n, P prefetch, MatrixView<float> c,
                                     const float* bias, bool resume) {
  constexpr int W = lanes<float>;
  const Index left = c.cols - n;
  Vector<float> sum[G * M] = {};
  for (int m = 0; m < M && m < c.rows; ++m) {
    const float* const from = resume ? c[m] : bias;
    for (int g = 0; g < G && from; ++g)
      sum[g * M + m] = left >= (g + 1) * W ? load(from + n + g * W)
                                           : PaddedVector<float>{left - g * W}.load(from + n + g * W);
  }
  for_each_input<G>(w, n, prefetch,
                    [&](int g, Index k, const Vector<float>& v) __attribute__((always_inline)) {
#pragma GCC unroll 16
                      for (int m = 0; m < M; ++m)
                        sum[g * M + m] = multiply_add(a[k * R + m], v, sum[g * M + m]);
                    });
  for (int m = 0; m < M && m < c.rows; ++m)
    for (int g = 0; g < G; ++g)
      if (left >= (g + 1) * W)
        store(c[m] + n + g * W, sum[g * M + m]);
      else
        PaddedVector<float>{left - g * W}.store(c[m] + n + g * W, sum[g * M + m]);
}

// Most rows of a product of few rows with such a B. For more, blocks of A take less time (gemm_by_blocks);
// INT8 then widens once what tiles would widen again.
template <class B>
inline constexpr Index few_rows_of = few_rows;
template <class View>
inline constexpr Index few_rows_of<PanelsOperand<View>> = View::scaled ? 24 : 96;

// Vectors of a panel that are computed at once, for R rows: their sums are in up to 24 of 32 registers, or 12
// of 16.
template <int R>
inline constexpr int vectors_at_once = MOEGPT_VECTOR_BYTES == 64 ? 4
                                       : R == 1                  ? 8
                                                                 : 2;

// C = initial + A W^T in tiles of R rows. A panel that is passed over once is prefetched shortly before; if
// several tiles or vectors pass over it, they prefetch the next one, each a part.
template <int R, class View>
[[gnu::noinline]] void gemm_few_rows_of(const Operand<float>& a, const View& w, MatrixView<float> c,
                                        InitialC<float> initial) {
  using Storage = typename View::Storage;
  constexpr int W = lanes<float>, G = vectors_at_once<R>;
  constexpr Index unit = sizeof(*w.data);
  constexpr Index bytes = Storage::rows * Storage::units(INT8::block) * unit / INT8::block;  // of an input
  constexpr int near = (bytes + 63) / 64, far = near < 2 ? near : 2;
  const Index panel = Storage::rows * Storage::units(w.matrix_cols) * unit;
  constexpr Index block_size = 16384;
  alignas(64) float block[block_size];
  const Pieces tiles{c.rows, R};
  const Index passes = tiles.size() * (Storage::rows / (G * W));
  const bool in_place = c.rows == 1 && a.col_stride == 1;
  const Index fitting = block_size / (tiles.size() * R) / INT8::block * INT8::block;
  const Index limit = in_place      ? INT8::blocks(w.cols) * INT8::block
                      : passes == 1 ? fitting
                                    : std::min<Index>(fitting, 1024);  // the panel stays in L2
  const InputPieces<PanelsOperand<View>> depths{w.cols, limit};
  for (Index p = 0; p < depths.size(); ++p) {
    const Rows depth = depths[p];
    const bool resume = p > 0 || initial.accumulate;
    for (Index t = 0; t < tiles.size() && !in_place; ++t)
      pack_few_rows<float, R>(a.rows_at(tiles[t]).cols_at(depth), block + t * R * depth.count);
    const float* const x = in_place ? a.row(0) : block;
    const View part = w.cols_at(depth);
    const auto panel_from = [&](Index n, auto prefetch, Index pass) {
      for (const Index end = n + part.panel_rows(n) - part.row_in_panel(n); n < end && n < c.cols;) {
        const bool together = n + G * W <= end && n + (G - 1) * W < c.cols;
        for (Index t = 0; t < tiles.size(); ++t, prefetch.next += pass) {
          const float* const rows = x + t * R * depth.count;
          const MatrixView<float> out = c.rows_at(tiles[t]);
          if (!together)
            panel_columns<R, R, 1>(rows, part, n, Prefetch<0>{}, out, initial.bias, resume);
          else if (R > 2 && out.rows < R)
            panel_columns<R, (R > 2 ? R - 1 : R), G>(rows, part, n, prefetch, out, initial.bias, resume);
          else
            panel_columns<R, R, G>(rows, part, n, prefetch, out, initial.bias, resume);
        }
        n += together ? G * W : W;
      }
      return n;
    };
    for (Index n = 0; n < c.cols;) {
      const auto here = reinterpret_cast<std::intptr_t>(part.at(n, 0));
      const Index step = bytes / passes;
      n = passes == 1 ? panel_from(n, Prefetch<near>{here + 8192, bytes}, 0)
                      : panel_from(n, Prefetch<far>{here + panel, step}, depth.count * step);
    }
  }
}
template <class View>
[[gnu::noinline]] void gemm_few_rows(const Operand<float>& a, const View& w, MatrixView<float> c,
                                     InitialC<float> initial) {
  if (c.rows == 1) return gemm_few_rows_of<1>(a, w, c, initial);
  if (c.rows == 2) return gemm_few_rows_of<2>(a, w, c, initial);
  const auto padded = [&](Index tile) { return (c.rows + tile - 1) / tile * tile; };
  const bool often = c.rows > 8 && sizeof(*w.data) == 4;  // tiles of 4 rows of floats wait for L2
  if (padded(4) < padded(6) && !often) return gemm_few_rows_of<4>(a, w, c, initial);
  gemm_few_rows_of<6>(a, w, c, initial);
}

// B as a packed panel of NR columns, if it lies in memory as one; otherwise null.
template <class T, class B>
const T* packed_in_place(const B&) {
  return nullptr;
}
template <class T>
const T* packed_in_place(const PanelsOperand<ConstPanelsView<float>>& b) {
  constexpr Index NR = Tile<T>::NR;
  const bool whole = NR == Panels<float>::rows && b.cols == NR && b.w.row_in_panel(0) == 0;
  return whole ? b.w.at(0, 0) : nullptr;
}
// panel[k][j] = B[k][j]; columns beyond those of B are unspecified. panel [b.rows, cols].
template <class T, class View>
[[gnu::noinline]] void pack(const PanelsOperand<View>& b, Index cols, T* panel) {
  constexpr int W = lanes<T>;
  for (Index j = 0; j < cols; j += W) {
    if (j < b.cols)
      for_each_input<1>(b.w, j, Prefetch<0>{},
                        [&](int, Index k, const Vector<T>& v) { store(panel + k * cols + j, v); });
    else
      for (Index k = 0; k < b.rows; ++k) store(panel + k * cols + j, Vector<T>{});
  }
}

}  // namespace detail
}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
