#pragma once
// Matrix transpose in squares of lanes x lanes: log2(lanes) steps, each of which exchanges blocks of lanes,
// of half the size, between pairs of vectors.
#include <moegpt/core/simd.hpp>

#include <utility>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

namespace detail {

// Exchanges the odd blocks of S lanes of a with the even ones of b.
template <class T, int S, std::size_t... lane>
[[gnu::always_inline]] inline void exchange(Vector<T>& a, Vector<T>& b, std::index_sequence<lane...>) {
  constexpr std::size_t W = lanes<T>;
  const Vector<T> upper = __builtin_shufflevector(a, b, (lane / S % 2 == 0 ? lane : lane - S + W)...);
  b = __builtin_shufflevector(a, b, (lane / S % 2 == 0 ? lane + S : lane + W)...);
  a = upper;
}
template <class T, int S = lanes<T> / 2>
[[gnu::always_inline]] inline void exchange_all(Vector<T>* v) {
#pragma GCC unroll 16
  for (int i = 0; i < lanes<T>; ++i)
    if (i / S % 2 == 0) exchange<T, S>(v[i], v[i + S], std::make_index_sequence<lanes<T>>{});
  if constexpr (S > 1) exchange_all<T, S / 2>(v);
}

template <class T>
[[gnu::always_inline]] inline void transpose_square(const T* const* row, Index column, T* to, Index to_row) {
  constexpr int W = lanes<T>;
  Vector<T> v[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) v[i] = load(row[i] + column);
  exchange_all<T>(v);
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) store(to + i * to_row, v[i]);
}

}  // namespace detail

// to = from^T. With an index, row i of the operand is from[index[i]].
template <class T>
[[gnu::noinline]] void transpose(MatrixView<const T> from, MatrixView<T> to, const Index* index = nullptr) {
  constexpr int W = lanes<T>;
  for (Index i = 0; i < from.rows; i += W) {
    const Index count = from.rows - i < W ? from.rows - i : W;
    const T* row[W];
    for (Index p = 0; p < count; ++p) row[p] = from[index ? index[i + p] : i + p];
    Index j = 0;
    if (count == W)
      for (; j + W <= from.cols; j += W) detail::transpose_square<T>(row, j, to[j] + i, to.stride);
    for (; j < from.cols; ++j)
      for (Index p = 0; p < count; ++p) to[j][i + p] = row[p][j];
  }
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
