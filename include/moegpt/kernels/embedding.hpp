#pragma once
// Embedding look-up by token id or position, forward and backward.
#include <moegpt/core/number.hpp>
#include <moegpt/core/token_positions.hpp>
#include <moegpt/kernels/reduce.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// y_n = table[ids_n], with the table stored as S
template <class T, class S = T>
[[gnu::noinline]] void look_up(const Exec& exec, StoredView<S> table, const int* ids, MatrixView<T> y) {
  for_each_piece(exec, y.rows, 64, [&](Rows rows) {
    for (Index n = rows.first; n < rows.first + rows.count; ++n) read_row(table, ids[n], y[n]);
  });
}
// d_table[ids_n] += dy_n, in token order: each task owns a range of features.
template <class T>
[[gnu::noinline]] void look_up_backward(const Exec& exec, const int* ids, MatrixView<const T> dy,
                                        MatrixView<T> d_table) {
  for_each_piece(exec, dy.cols, 128, [&](Rows features) {
    for (Index n = 0; n < dy.rows; ++n)
      axpy<T>(features.count, 1, dy[n] + features.first, d_table[ids[n]] + features.first);
  });
}

// y_n += table[position of token n]. Positions beyond the table, which padding may have, are skipped.
template <class T>
[[gnu::noinline]] void add_positions(const Exec& exec, MatrixView<const T> table, TokenPositions positions,
                                     MatrixView<T> y) {
  for_each_piece(exec, y.rows, 64, [&](Rows rows) {
    for (Index n = rows.first; n < rows.first + rows.count; ++n)
      if (positions[n] < table.rows) axpy<T>(y.cols, 1, table[positions[n]], y[n]);
  });
}
// d_table[p] += sum of dy over tokens with position p, in order of sequences: each task owns a range of
// positions.
template <class T>
[[gnu::noinline]] void add_positions_backward(const Exec& exec, MatrixView<const T> dy,
                                              TokenPositions positions, MatrixView<T> d_table) {
  const Index batch = positions.length > 0 ? dy.rows / positions.length : 0;
  for_each_piece(exec, d_table.rows, 16, [&](Rows owned) {
    for (Index p = owned.first; p < owned.first + owned.count; ++p)
      for (Index b = 0; b < batch; ++b) {
        const Index t = p - positions.first_of(b);
        if (t >= 0 && t < positions.length) axpy<T>(dy.cols, 1, dy[b * positions.length + t], d_table[p]);
      }
  });
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
