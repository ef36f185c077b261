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
// Prefetches the cache lines of G vectors of weights.
template <int G, class Unit>
[[gnu::always_inline]] inline void prefetch_vectors(const Unit* p) {
  constexpr Index line = 64 / Index{sizeof(Unit)};
#pragma GCC unroll 8
  for (Index i = 0; i < G * lanes<float>; i += line) __builtin_prefetch(p + i, 0, 3);
}

// f(g, k, w[.][k]) for every input k in order, where lanes are outputs: rows `row` + g lanes<float> of w on,
// for g < G. All are in one panel. What is `ahead` units further is prefetched.
template <int G, class S, class F>
[[gnu::always_inline]] inline void for_each_input(const ConstPanelsView<S>& w, Index row, Index ahead,
                                                  F&& f) {
  constexpr int W = lanes<float>;
  const Index step = w.panel_rows(row);
  if constexpr (std::same_as<S, INT8>) {
    for (Index first = 0; first < w.cols; first += INT8::block) {
      const std::int8_t* p = w.at(row, first);
      const std::int8_t* const scales = w.scale_at(row, first);
      Vector<float> scale[G];
      std::memcpy(&scale, scales, sizeof scale);
      prefetch_vectors<4 * G>(scales + ahead);
      const Index end = first + INT8::block < w.cols ? first + INT8::block : w.cols;
      for (Index k = first; k < end; ++k, p += step) {
        prefetch_vectors<G>(p + ahead);
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) f(g, k, widen(p + g * W) * scale[g]);
      }
    }
  } else {
    const auto* p = w.at(row, 0);
    for (Index k = 0; k < w.cols; ++k, p += step) {
      prefetch_vectors<G>(p + ahead);
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) f(g, k, widen(p + g * W));
    }
  }
}

// C = initial + A W^T for G lanes<float> columns of C from n on, of which the last vector may end beyond the
// last column. a [w.cols, M]
template <int M, int G, class View>
[[gnu::noinline]] void panel_columns(const float* a, const View& w, Index n, Index ahead, MatrixView<float> c,
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
  for_each_input<G>(w, n, ahead, [&](int g, Index k, const Vector<float>& v) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) sum[g * M + m] = multiply_add(a[k * M + m], v, sum[g * M + m]);
  });
  for (int m = 0; m < M && m < c.rows; ++m)
    for (int g = 0; g < G; ++g)
      if (left >= (g + 1) * W)
        store(c[m] + n + g * W, sum[g * M + m]);
      else
        PaddedVector<float>{left - g * W}.store(c[m] + n + g * W, sum[g * M + m]);
}

// Vectors of a panel that are computed at once: their sums of M rows fill half of the registers.
template <int M>
inline constexpr int vectors_at_once =
    std::min<int>(Panels<float>::rows / lanes<float>, (MOEGPT_VECTOR_BYTES == 64 ? 16 : 8) / M);

// C = initial + A W^T for at most M rows.
template <int M, class View>
[[gnu::noinline]] void gemm_few_rows_of(const Operand<float>& a, const View& w, MatrixView<float> c,
                                        InitialC<float> initial) {
  using Storage = typename View::Storage;
  constexpr int W = lanes<float>, G = vectors_at_once<M>;
  constexpr Index most = few_rows_depth<float, M>, line = 64 / Index{sizeof(*w.data)};
  // The next panel is prefetched if this one is read several times, otherwise what comes next in memory.
  const Index ahead = G * W == Storage::rows ? 128 * line : Storage::rows * Storage::units(w.matrix_cols);
  alignas(64) float block[most * M];
  const bool in_place = M == 1 && a.col_stride == 1;
  const InputPieces<PanelsOperand<View>> depths{w.cols, in_place ? (w.cols + 31) / 32 * 32 : most};
  for (Index p = 0; p < depths.size(); ++p) {
    const Rows depth = depths[p];
    const bool resume = p > 0 || initial.accumulate;
    if (!in_place) pack_few_rows<float, M>(a.cols_at(depth), block);
    const float* const x = in_place ? a.row(0) : block;
    const View part = w.cols_at(depth);
    for (Index n = 0; n < c.cols;) {
      const Index left = part.panel_rows(n) - part.row_in_panel(n);
      if (left >= G * W && c.cols - n > (G - 1) * W) {
        panel_columns<M, G>(x, part, n, ahead, c, initial.bias, resume);
        n += G * W;
      } else {
        panel_columns<M, 1>(x, part, n, ahead, c, initial.bias, resume);
        n += W;
      }
    }
  }
}
template <class View>
[[gnu::noinline]] void gemm_few_rows(const Operand<float>& a, const View& w, MatrixView<float> c,
                                     InitialC<float> initial) {
  if (c.rows == 1) return gemm_few_rows_of<1>(a, w, c, initial);
  if (c.rows <= 4) return gemm_few_rows_of<4>(a, w, c, initial);
  if constexpr (few_rows > 8)
    if (c.rows > 8) return gemm_few_rows_of<16>(a, w, c, initial);
  gemm_few_rows_of<8>(a, w, c, initial);
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
// panel[k][j] = B[k][j]; columns beyond those of B have any numbers. panel [b.rows, cols].
template <class T, class View>
[[gnu::noinline]] void pack(const PanelsOperand<View>& b, Index cols, T* panel) {
  constexpr int W = lanes<T>;
  for (Index j = 0; j < cols; j += W) {
    if (j < b.cols)
      for_each_input<1>(b.w, j, 0, [&](int, Index k, const Vector<T>& v) { store(panel + k * cols + j, v); });
    else
      for (Index k = 0; k < b.rows; ++k) store(panel + k * cols + j, Vector<T>{});
  }
}

}  // namespace detail
}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
