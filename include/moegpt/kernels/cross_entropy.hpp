#pragma once
// Cross-entropy of softmax(logits) with one target per token, and the divergence from the softened
// distribution of a teacher (distillation); tokens with a negative target are ignored. Backward needs only
// logits and log-sum-exp (lse), so gradient columns can be computed in blocks.
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

// log sum_i exp(a z_i), a > 0.
template <class T>
T log_sum_exp(const T* z, Index n, T a) {
  Vector<T> tops = Vector<T>{} + minus_infinity<T>, total{};
  for_each_vector<T>(n, [&](Index i, auto part) {
    const Vector<T> v = part.load(z + i, minus_infinity<T>);
    tops = v > tops ? v : tops;
  });
  T top = tops[0];
  for (int i = 1; i < lanes<T>; ++i) top = tops[i] > top ? tops[i] : top;
  for_each_vector<T>(
      n, [&](Index i, auto part) { total += exponential(a * (part.load(z + i, minus_infinity<T>) - top)); });
  return a * top + std::log(sum_lanes<T>(total));
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

// Log-sum-exp of a token's logits and of its teacher's, both divided by the temperature, and KL(p || q).
template <class T>
struct Divergence {
  T value, lse, teacher_lse;
};

// With q = softmax(z_n / temperature), p = softmax(teacher_n / temperature), in nats:
//   KL_n = sum_i p_i (log p_i - log q_i),   a term with p_i = 0 is 0
// All zero for an ignored target. A NaN among the logits gives NaN.
template <class T>
[[gnu::noinline]] void divergences(const Exec& exec, MatrixView<const T> z, MatrixView<const T> teacher,
                                   const int* target, T temperature, Divergence<T>* divergence) {
  const T a = 1 / temperature;
  for_each_piece(exec, z.rows, 16, [&](Rows rows) {
    for (Index n = rows.first; n < rows.first + rows.count; ++n) {
      if (target[n] < 0) {
        divergence[n] = {};
        continue;
      }
      const T lse = log_sum_exp(z[n], z.cols, a), teacher_lse = log_sum_exp(teacher[n], z.cols, a);
      Vector<T> total{};
      for_each_vector<T>(z.cols, [&](Index i, auto part) {
        const Vector<T> log_p = a * part.load(teacher[n] + i, minus_infinity<T>) - teacher_lse;
        const Vector<T> p = exponential(log_p);
        total += p == T(0) ? Vector<T>{} : p * (log_p - (a * part.load(z[n] + i) - lse));
      });
      divergence[n] = {sum_lanes<T>(total), lse, teacher_lse};
    }
  });
}

// dz_n += scale (q_n - p_n), in columns `first` .. `first` + dz.cols - 1; nothing for an ignored target. The
// gradient of KL_n has scale = 1 / temperature.
template <class T>
[[gnu::noinline]] void divergences_backward(const Exec& exec, MatrixView<const T> z,
                                            MatrixView<const T> teacher, const int* target, T temperature,
                                            const Divergence<T>* divergence, T scale, Index first,
                                            MatrixView<T> dz) {
  const T a = 1 / temperature;
  for_each_piece(exec, z.rows, 16, [&](Rows rows) {
    for (Index n = rows.first; n < rows.first + rows.count; ++n) {
      if (target[n] < 0) continue;
      const T lse = divergence[n].lse, teacher_lse = divergence[n].teacher_lse;
      const T *z_row = z[n] + first, *teacher_row = teacher[n] + first;
      for_each_vector<T>(dz.cols, [&](Index i, auto part) {
        const Vector<T> q = exponential(a * part.load(z_row + i) - lse);
        const Vector<T> p = exponential(a * part.load(teacher_row + i) - teacher_lse);
        part.store(dz[n] + i, part.load(dz[n] + i) + scale * (q - p));
      });
    }
  });
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
