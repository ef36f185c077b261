#pragma once
// Dispatch and combine: copies of tokens to slots (of dy, in backward), and weighted sums of slots per token.
// slot [tokens, choices] holds indices of slots, negative for none. A token's slots are summed in the order
// of its choices: a gather, so there are no atomics and results do not depend on threads.
#include <moegpt/core/exec.hpp>
#include <moegpt/kernels/reduce.hpp>

#include <algorithm>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

inline constexpr Index dispatch_piece = 64;

// slot_rows[s] = x[token[s]], or x[s] for a null token; on one thread
template <class T>
void gather(MatrixView<const T> x, const Index* token, MatrixView<T> slot_rows) {
  for (Index s = 0; s < slot_rows.rows; ++s)
    std::memcpy(slot_rows[s], x[token ? token[s] : s], bytes_of<T>(x.cols));
}
// x[s] *= gate[s], on one thread
template <class T>
void scale_rows(const T* gate, MatrixView<T> x) {
  for (Index s = 0; s < x.rows; ++s) scale(x.cols, gate[s], x[s], x[s]);
}

// y[n] = sum_j gate[slot(n, j)] slot_rows[slot(n, j)]; null gate: ones.
template <class T>
[[gnu::noinline]] void combine(const Exec& exec, MatrixView<const T> slot_rows, const Index* slot,
                               int choices, const T* gate, MatrixView<T> y) {
  for_each_piece(exec, y.rows, dispatch_piece, [&](Rows r) {
    for (Index n = r.first; n < r.first + r.count; ++n) {
      bool started = false;
      for (int j = 0; j < choices; ++j) {
        const Index s = slot[n * choices + j];
        if (s < 0) continue;
        const T a = gate ? gate[s] : T(1);
        started ? axpy(y.cols, a, slot_rows[s], y[n]) : scale(y.cols, a, slot_rows[s], y[n]);
        started = true;
      }
      if (!started) std::fill_n(y[n], y.cols, T(0));
    }
  });
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
