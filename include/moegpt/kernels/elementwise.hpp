#pragma once
// Element by element over many tokens.
#include <moegpt/core/exec.hpp>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

// y = a + b; y may be a or b.
template <class T>
[[gnu::noinline]] void add(const Exec& exec, MatrixView<const T> a, MatrixView<const T> b, MatrixView<T> y) {
  for_each_piece(exec, y.rows, 256, [&](Rows r) {
    const Index first = r.first * y.cols, last = first + r.count * y.cols;
    for (Index i = first; i < last; ++i) y.data[i] = a.data[i] + b.data[i];
  });
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
