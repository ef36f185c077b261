#pragma once
// Element-wise operations on contiguous matrices.
#include <moegpt/core/exec.hpp>
#include <moegpt/core/simd.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// y = a + factor b; y may be a or b.
template <class T>
[[gnu::noinline]] void add(const Exec& exec, MatrixView<const T> a, MatrixView<const T> b, MatrixView<T> y,
                           T factor = T(1)) {
  for_each_piece(exec, y.rows, 256, [&](Rows r) {
    const T *a0 = a.data + r.first * y.cols, *b0 = b.data + r.first * y.cols;
    T* y0 = y.data + r.first * y.cols;
    for_each_vector<T>(r.count * y.cols, [&](Index i, auto part) {
      part.store(y0 + i, part.load(a0 + i) + factor * part.load(b0 + i));
    });
  });
}

// y = factor x; y may be x.
template <class T>
[[gnu::noinline]] void scale(const Exec& exec, T factor, MatrixView<const T> x, MatrixView<T> y) {
  for_each_piece(exec, y.rows, 256, [&](Rows r) {
    const T* x0 = x.data + r.first * y.cols;
    T* y0 = y.data + r.first * y.cols;
    for_each_vector<T>(r.count * y.cols,
                       [&](Index i, auto part) { part.store(y0 + i, factor * part.load(x0 + i)); });
  });
}

// x = min(max(x, -bound), bound)
template <class T>
[[gnu::noinline]] void clip(const Exec& exec, T bound, MatrixView<T> x) {
  for_each_piece(exec, x.rows, 256, [&](Rows r) {
    T* x0 = x.data + r.first * x.cols;
    for (Index i = 0; i < r.count * x.cols; ++i)
      x0[i] = x0[i] < -bound ? -bound : x0[i] > bound ? bound : x0[i];
  });
}
// dx = dy within the bound, else 0. x may be the input or the output of clip, and dx may be x or dy.
template <class T>
[[gnu::noinline]] void clip_backward(const Exec& exec, T bound, MatrixView<const T> x, MatrixView<const T> dy,
                                     MatrixView<T> dx) {
  for_each_piece(exec, dx.rows, 256, [&](Rows r) {
    const T *x0 = x.data + r.first * dx.cols, *dy0 = dy.data + r.first * dx.cols;
    T* dx0 = dx.data + r.first * dx.cols;
    for (Index i = 0; i < r.count * dx.cols; ++i) dx0[i] = x0[i] > -bound && x0[i] < bound ? dy0[i] : T(0);
  });
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
