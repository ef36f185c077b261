#pragma once
// Rows of a table looked up by number, and the sum of gradients that comes back.
#include <moegpt/kernels/reduce.hpp>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

// y_n = table[id_n]
template <class T>
[[gnu::noinline]] void look_up(const Exec& exec, MatrixView<const T> table, const int* ids, MatrixView<T> y) {
  for_each_piece(exec, y.rows, 64, [&](Rows rows) {
    for (Index n = rows.first; n < rows.first + rows.count; ++n) std::memcpy(y[n], table[ids[n]], bytes_of<T>(y.cols));
  });
}
// d_table[id_n] += dy_n, token after token: a piece owns a range of features.
template <class T>
[[gnu::noinline]] void look_up_backward(const Exec& exec, const int* ids, MatrixView<const T> dy, MatrixView<T> d_table) {
  for_each_piece(exec, dy.cols, 128, [&](Rows features) {
    for (Index n = 0; n < dy.rows; ++n)
      axpy<T>(features.count, 1, dy[n] + features.first, d_table[ids[n]] + features.first);
  });
}

// y_n += table[first + n mod length]
template <class T>
[[gnu::noinline]] void add_positions(const Exec& exec, MatrixView<const T> table, Index first, Index length,
                                     MatrixView<T> y) {
  for_each_piece(exec, y.rows, 64, [&](Rows rows) {
    for (Index n = rows.first; n < rows.first + rows.count; ++n)
      axpy<T>(y.cols, 1, table[first + n % length], y[n]);
  });
}
// d_table[first + t] += sum over sequences of dy: a piece owns positions.
template <class T>
[[gnu::noinline]] void add_positions_backward(const Exec& exec, MatrixView<const T> dy, Index first, Index length,
                                              MatrixView<T> d_table) {
  for_each_piece(exec, length, 16, [&](Rows positions) {
    for (Index t = positions.first; t < positions.first + positions.count; ++t)
      for (Index n = t; n < dy.rows; n += length) axpy<T>(dy.cols, 1, dy[n], d_table[first + t]);
  });
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
