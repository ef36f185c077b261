#pragma once
// Copies of tokens in slots, which backward needs of dy, and sums of slots for tokens. Slots of a token are
// summed in the order of its choices: a gather, so no atomics and no dependence on threads. `slot` holds
// [tokens, choices] slot numbers, negative for none.
#include <moegpt/core/exec.hpp>
#include <moegpt/kernels/reduce.hpp>

#include <algorithm>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

inline constexpr Index dispatch_piece = 64;

// slot_rows[s] = x[token[s]], on one thread; without tokens x[s]
template <class T>
void gather(MatrixView<const T> x, const Index* token, MatrixView<T> slot_rows) {
  for (Index s = 0; s < slot_rows.rows; ++s) std::memcpy(slot_rows[s], x[token ? token[s] : s], bytes_of<T>(x.cols));
}
// x[s] *= weight[s], on one thread
template <class T>
void scale_rows(const T* weight, MatrixView<T> x) {
  for (Index s = 0; s < x.rows; ++s) scale(x.cols, weight[s], x[s], x[s]);
}

// y[n] = sum_j weight[slot(n, j)] slot_rows[slot(n, j)]; a null weight counts as one.
template <class T>
[[gnu::noinline]] void combine(const Exec& exec, MatrixView<const T> slot_rows, const Index* slot, int choices, const T* weight,
             MatrixView<T> y) {
  for_each_piece(exec, y.rows, dispatch_piece, [&](Rows r) {
    for (Index n = r.first; n < r.first + r.count; ++n) {
      bool started = false;
      for (int j = 0; j < choices; ++j) {
        const Index s = slot[n * choices + j];
        if (s < 0) continue;
        const T a = weight ? weight[s] : T(1);
        started ? axpy(y.cols, a, slot_rows[s], y[n]) : scale(y.cols, a, slot_rows[s], y[n]);
        started = true;
      }
      if (!started) std::fill_n(y[n], y.cols, T(0));
    }
  });
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
