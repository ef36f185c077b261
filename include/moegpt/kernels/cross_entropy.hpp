#pragma once
// Cross-entropy of softmax(logits) against one target per token; targets below zero are ignored.
#include <moegpt/kernels/softmax.hpp>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

// -log softmax(z)[target] in nats.
template <class T>
T cross_entropy(const T* z, Index vocab, int target) {
  T top = minus_infinity<T>;
  for (Index i = 0; i < vocab; ++i) top = z[i] > top ? z[i] : top;
  T total = 0;
  for (Index i = 0; i < vocab; ++i) total += std::exp(z[i] - top);
  return top + std::log(total) - z[target];
}

// dz = scale (softmax(z) - onehot(target)); zero where the target is ignored.
template <class T>
void cross_entropy_backward(const T* z, Index vocab, int target, T scale, T* dz) {
  if (target < 0) {
    for (Index i = 0; i < vocab; ++i) dz[i] = 0;
    return;
  }
  for (Index i = 0; i < vocab; ++i) dz[i] = z[i];
  softmax(dz, vocab);
  dz[target] -= 1;
  for (Index i = 0; i < vocab; ++i) dz[i] *= scale;
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
