#pragma once
// Weights in narrower storage as operands of products. They are read from memory as they are stored and
// widened in registers. Words of 32 bits, each 2 BF16 or 4 INT8 of a row, are transposed in squares of
// vectors, so that outputs are lanes. Each word then gives the weights of 2 or 4 inputs, one after another.
#include <moegpt/core/exec.hpp>
#include <moegpt/core/number.hpp>
#include <moegpt/kernels/micro_kernel.hpp>

#include <bit>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// B = W^T of weights in narrower storage, for View = StoredView<S>.
template <class View>
struct StoredOperand {
  View w;
  Index rows = w.cols, cols = w.rows;
  explicit StoredOperand(View weights) : w(weights) {}
  StoredOperand rows_at(Rows r) const { return StoredOperand(w.cols_at(r.first, r.count)); }
  StoredOperand cols_at(Rows c) const { return StoredOperand(w.rows_at(c)); }
  bool is_transposed() const { return true; }
  View weights() const { return w; }
};
// B = W^T of weights stored as S.
template <class T, class S>
using WeightOperand = std::conditional_t<std::same_as<S, T>, Operand<T>, StoredOperand<StoredView<S>>>;
template <class T>
auto transposed(MatrixView<const BF16> w) {
  return StoredOperand(w);
}
template <class T>
auto transposed(ConstInt8View w) {
  return StoredOperand(w);
}

namespace detail {

// Pieces of inputs begin at multiples of this number, so that a block has all of its scale.
template <class View>
inline constexpr Index piece_unit = 1;
template <>
inline constexpr Index piece_unit<ConstInt8View> = INT8::block;
template <>
inline constexpr Index piece_unit<StoredOperand<ConstInt8View>> = INT8::block;

// As Pieces, but in whole units. `limit` is a multiple of the unit.
template <class View>
struct InputPieces {
  static constexpr Index unit = piece_unit<View>;
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

// f(k, weights of input k) for the inputs in a word, the first of which is k.
template <class F>
[[gnu::always_inline]] inline void widen_word(MatrixView<const BF16>, Index k, Vector<std::uint32_t> word,
                                              F&& f) {
  const Vector<std::uint32_t> low = word << 16, high = word & 0xffff0000u;
  f(k, std::bit_cast<Vector<float>>(low));
  f(k + 1, std::bit_cast<Vector<float>>(high));
}
template <class F>
[[gnu::always_inline]] inline void widen_word(ConstInt8View w, Index k, Vector<std::uint32_t> word, F&& f) {
  const Vector<float> scale = load(w.scales_of(k / INT8::block));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Vector<std::uint32_t> top = word << (24 - 8 * i);
    const Vector<std::int32_t> q = std::bit_cast<Vector<std::int32_t>>(top) >> 24;  // extends the sign
    f(k + i, __builtin_convertvector(q, Vector<float>) * scale);
  }
}
template <class View>
inline constexpr int inputs_of_word = std::same_as<View, ConstInt8View> ? 4 : 2;

inline void prefetch_scales(MatrixView<const BF16>, Index) {}
[[gnu::always_inline]] inline void prefetch_scales(ConstInt8View w, Index k) {
  for (Index b = k / INT8::block; b * INT8::block < k + 4 * lanes<float>; ++b)
    __builtin_prefetch(w.scales_of(b) + lanes<float>, 0, 3);
}

// f(g, k, w[.][k]) for every input k in order, where lanes are the outputs of group g: the first G groups of
// rows of w, each as many as a vector has lanes. Groups alternate, so that chains of multiply-adds overlap.
// fetch_next: prefetches as many rows after them, in the order of memory.
template <int G, class View, class F>
[[gnu::always_inline]] inline void for_each_input(const View& w, bool fetch_next, F&& f) {
  constexpr int W = lanes<float>, P = inputs_of_word<View>;
  constexpr Index square = W * P, size = sizeof(*w.data), line = 64 / size,
                  lines = G * W * square / line;  // of cache
  const auto* next = fetch_next ? w[G * W] : w.data;
  const Index run = w.stride == w.cols ? G * W * w.cols : w.cols;  // that lies in one piece
  Index fetched = 0, k = 0;
  const auto widen = [&](int g, Index at, Vector<std::uint32_t> word) __attribute__((always_inline)) {
    widen_word(w.rows_at({g * W, W}), at, word,
               [&](Index input, const Vector<float>& v) __attribute__((always_inline)) { f(g, input, v); });
  };
  for (; k + square <= w.cols; k += square) {
    if (fetch_next) {
#pragma GCC unroll 32
      for (Index i = 0; i < lines; ++i) __builtin_prefetch(next + i * line, 0, 2);
      for (int g = 0; g < G; ++g) prefetch_scales(w.rows_at({g * W, W}), k);
      fetched += lines * line;
      next += lines * line;
      if (fetched >= run) next += w.stride - fetched, fetched = 0;
    }
    Vector<std::uint32_t> word[G][W];
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) {
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) std::memcpy(&word[g][i], w[g * W + i] + k, sizeof word[g][i]);
      exchange_all<std::uint32_t>(word[g]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i)
#pragma GCC unroll 2
      for (int g = 0; g < G; ++g) widen(g, k + i * P, word[g][i]);
  }
  const Index count = w.cols - k, whole = count / P;
  if (count == 0) return;
  for (int g = 0; g < G; ++g) {  // the rest, with zeros behind
    Vector<std::uint32_t> word[W] = {};
    for (int i = 0; i < W; ++i)
      std::memcpy(&word[i], w[g * W + i] + k, static_cast<std::size_t>(count * size));
    exchange_all<std::uint32_t>(word);
    for (Index i = 0; i < whole; ++i) widen(g, k + i * P, word[i]);
    if (whole * P == count) continue;
    Vector<float> last[P];
    widen_word(w.rows_at({g * W, W}), k + whole * P, word[whole],
               [&](Index input, const Vector<float>& v) { last[input % P] = v; });
    for (Index i = whole * P; i < count; ++i) f(g, k + i, last[i % P]);
  }
}

inline float widened(MatrixView<const BF16> w, Index row, Index k) { return w[row][k]; }
inline float widened(ConstInt8View w, Index row, Index k) { return w.at(row, k); }

// panel[k][j] = B[k][j], and zero for j beyond its columns. panel [b.rows, cols].
template <class T, class View>
[[gnu::noinline]] void pack(const StoredOperand<View>& b, Index cols, T* panel) {
  constexpr int W = lanes<T>;
  Index j = 0;
  for (; j + W <= b.cols; j += W)
    for_each_input<1>(b.w.rows_at({j, W}), false,
                      [&](int, Index k, const Vector<T>& v) { store(panel + k * cols + j, v); });
  for (Index k = 0; k < b.rows && j < cols; ++k)
    for (Index i = j; i < cols; ++i) panel[k * cols + i] = i < b.cols ? widened(b.w, i, k) : T(0);
}

}  // namespace detail
}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
