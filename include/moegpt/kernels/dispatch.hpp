#pragma once
// Moving tokens to slots and back. Slots of a token are summed in the order of its choices: a gather, so no
// atomics and no dependence on threads. `slot` holds [tokens, choices] slot numbers, negative for none.
#include <moegpt/core/exec.hpp>
#include <moegpt/kernels/reduce.hpp>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

inline constexpr Index dispatch_piece = 64;

// slots[s] = x[token[s]]
template <class T>
[[gnu::noinline]] void gather(const Exec& exec, MatrixView<const T> x, const Index* token, MatrixView<T> slots) {
  for_each_piece(exec, slots.rows, dispatch_piece, [&](Rows r) {
    for (Index s = r.first; s < r.first + r.count; ++s) std::memcpy(slots[s], x[token[s]], sizeof(T) * x.cols);
  });
}

// y[n] = sum_j weight[slot(n, j)] slots[slot(n, j)]; a null weight counts as one.
template <class T>
[[gnu::noinline]] void combine(const Exec& exec, MatrixView<const T> slots, const Index* slot, int choices, const T* weight,
             MatrixView<T> y) {
  for_each_piece(exec, y.rows, dispatch_piece, [&](Rows r) {
    for (Index n = r.first; n < r.first + r.count; ++n) {
      for (Index i = 0; i < y.cols; ++i) y[n][i] = 0;
      for (int j = 0; j < choices; ++j) {
        const Index s = slot[n * choices + j];
        if (s >= 0) axpy(y.cols, weight ? weight[s] : T(1), slots[s], y[n]);
      }
    }
  });
}

// d_weight[s] = <dy[token[s]], slots[s]>,  d_slots[s] = weight[s] dy[token[s]]
template <class T>
[[gnu::noinline]] void combine_backward(const Exec& exec, MatrixView<const T> dy, const Index* token, const T* weight,
                      MatrixView<const T> slots, T* d_weight, MatrixView<T> d_slots) {
  for_each_piece(exec, d_slots.rows, dispatch_piece, [&](Rows r) {
    for (Index s = r.first; s < r.first + r.count; ++s) {
      const T* d = dy[token[s]];
      d_weight[s] = dot(d, slots[s], dy.cols);
      for (Index i = 0; i < dy.cols; ++i) d_slots[s][i] = weight[s] * d[i];
    }
  });
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
