#pragma once
// Element-wise sum of matrices.
#include <moegpt/core/exec.hpp>
#include <moegpt/core/simd.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// y = a + b, all contiguous; y may be a or b.
template <class T>
[[gnu::noinline]] void add(const Exec& exec, MatrixView<const T> a, MatrixView<const T> b, MatrixView<T> y) {
  for_each_piece(exec, y.rows, 256, [&](Rows r) {
    const T *a0 = a.data + r.first * y.cols, *b0 = b.data + r.first * y.cols;
    T* y0 = y.data + r.first * y.cols;
    for_each_vector<T>(r.count * y.cols, [&](Index i, auto part) {
      part.store(y0 + i, part.load(a0 + i) + part.load(b0 + i));
    });
  });
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
