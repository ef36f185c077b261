#pragma once
// Cross-entropy of softmax(logits) with one target per token; negative targets are ignored. Backward needs
// only logits and log-sum-exp (lse), so gradient columns can be computed in blocks.
#include <moegpt/core/exec.hpp>
#include <moegpt/kernels/softmax.hpp>

#include <algorithm>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// log sum_i exp(z_i) without overflow. NaN if any z_i is NaN, or all are minus infinity.
template <class T>
T log_sum_exp(const T* z, Index n) {
  Vector<T> tops = Vector<T>{} + minus_infinity<T>, total{};
  for_each_vector<T>(n, [&](Index i, auto part) {
    const Vector<T> v = part.load(z + i, minus_infinity<T>);
    tops = v > tops ? v : tops;
  });
  T top = tops[0];
  for (int i = 1; i < lanes<T>; ++i) top = tops[i] > top ? tops[i] : top;
  for_each_vector<T>(
      n, [&](Index i, auto part) { total += exponential(part.load(z + i, minus_infinity<T>) - top); });
  return top + std::log(sum_lanes<T>(total));
}

// loss_n = -log softmax(z_n)[target_n] = lse_n - z_n[target_n], in nats; loss_n = lse_n = 0 for an ignored
// target.
template <class T>
[[gnu::noinline]] void cross_entropies(const Exec& exec, MatrixView<const T> z, const int* target, T* loss,
                                       T* lse) {
  for_each_piece(exec, z.rows, 16, [&](Rows rows) {
    for (Index n = rows.first; n < rows.first + rows.count; ++n) {
      const bool counts = target[n] >= 0;
      lse[n] = counts ? log_sum_exp(z[n], z.cols) : T(0);
      loss[n] = counts ? lse[n] - z[n][target[n]] : T(0);
    }
  });
}

// dz_n = scale (softmax(z_n) - onehot(target_n)), in columns `first` .. `first` + dz.cols - 1; zero for an
// ignored target.
template <class T>
[[gnu::noinline]] void cross_entropies_backward(const Exec& exec, MatrixView<const T> z, const int* target,
                                                const T* lse, T scale, Index first, MatrixView<T> dz) {
  for_each_piece(exec, z.rows, 16, [&](Rows rows) {
    for (Index n = rows.first; n < rows.first + rows.count; ++n) {
      if (target[n] < 0) {
        std::fill_n(dz[n], dz.cols, T(0));
        continue;
      }
      map(dz.cols, z[n] + first, dz[n], [&](Vector<T> v) { return scale * exponential(v - lse[n]); });
      if (target[n] >= first && target[n] < first + dz.cols) dz[n][target[n] - first] -= scale;
    }
  });
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
