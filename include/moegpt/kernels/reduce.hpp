#pragma once
// Sums over a row, in an order that depends only on its length, and sums over rows, in their order.
#include <moegpt/core/exec.hpp>
#include <moegpt/core/simd.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// The sum of term(i, part) over [0, n). The elements beyond the last full vector are summed one by one.
template <class T, class F>
[[gnu::always_inline]] inline T reduce(Index n, F&& term) {
  constexpr int W = lanes<T>, chains = 4;  // independent, so that additions overlap
  Vector<T> s[chains] = {};
  T rest = 0;
  Index i = 0;
  for (; i + chains * W <= n; i += chains * W)
#pragma GCC unroll 4
    for (int c = 0; c < chains; ++c) s[c] += term(i + c * W, FullVector<T>{});
  for (; i + W <= n; i += W) s[0] += term(i, FullVector<T>{});
  for (; i < n; ++i) rest += term(i, OneElement<T>{});
  return sum_lanes<T>((s[0] + s[1]) + (s[2] + s[3])) + rest;
}

template <class T>
T sum(const T* x, Index n) {
  return reduce<T>(n, [&](Index i, auto part) { return part.load(x + i); });
}

template <class T>
T dot(const T* x, const T* y, Index n) {
  return reduce<T>(n, [&](Index i, auto part) { return part.load(x + i) * part.load(y + i); });
}

// y = a x
template <class T>
void scale(Index n, T a, const T* x, T* y) {
  for_each_vector<T>(n, [&](Index i, auto part) { part.store(y + i, a * part.load(x + i)); });
}

// y += a x
template <class T>
void axpy(Index n, T a, const T* x, T* y) {
  for_each_vector<T>(n,
                     [&](Index i, auto part) { part.store(y + i, part.load(y + i) + a * part.load(x + i)); });
}

// y_j += sum over rows r = 0, 1, 2 ... of term(r, j, part). A task owns columns and holds their sums in
// registers.
template <class T, class F>
void add_over_rows(const Exec& exec, Index rows, Index cols, T* y, F&& term) {
  constexpr int W = lanes<T>, run = 4;
  const Index tasks = (cols + run * W - 1) / (run * W);
  exec.parallel_for(tasks, [&](Index task) {
    const Index first = task * run * W, left = cols - first;
    if (left >= run * W) {
      Vector<T> s[run];
      for (int v = 0; v < run; ++v) s[v] = load(y + first + v * W);
      for (Index r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < run; ++v) s[v] += term(r, first + v * W, FullVector<T>{});
      for (int v = 0; v < run; ++v) store(y + first + v * W, s[v]);
    } else {
      for_each_vector<T>(left, [&](Index i, auto part) {
        auto s = part.load(y + first + i);
        for (Index r = 0; r < rows; ++r) s += term(r, first + i, part);
        part.store(y + first + i, s);
      });
    }
  });
}

// y_j += sum_r x_rj
template <class T>
[[gnu::noinline]] void sum_rows(const Exec& exec, MatrixView<const T> x, T* y) {
  add_over_rows<T>(exec, x.rows, x.cols, y, [&](Index r, Index j, auto part) { return part.load(x[r] + j); });
}

// Sum of squares in double, for norms of many elements.
template <class T>
[[gnu::noinline]] double squared_norm(const T* x, Index n) {
  constexpr int W = lanes<double>;
  typedef T Narrow __attribute__((vector_size(W * sizeof(T))));
  Vector<double> sum[4] = {};
  Index i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const T* from = x + i + j * W;
      __builtin_prefetch(from + 4096 / sizeof(T));  // twice as fast from memory
      Narrow narrow;
      std::memcpy(&narrow, from, sizeof narrow);
      const auto wide = __builtin_convertvector(narrow, Vector<double>);
      sum[j] += wide * wide;
    }
  }
  double tail = 0;
  for (; i < n; ++i) tail += double(x[i]) * double(x[i]);
  return sum_lanes<double>((sum[0] + sum[1]) + (sum[2] + sum[3])) + tail;
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
