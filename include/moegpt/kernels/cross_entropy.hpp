#pragma once
// Cross-entropy of softmax(logits) against one target per token; targets below zero are ignored.
#include <moegpt/kernels/softmax.hpp>

#include <algorithm>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

// -log softmax(z)[target] in nats; zero where the target is ignored. scratch: vocab numbers.
template <class T>
T cross_entropy(const T* z, Index vocab, int target, T* scratch) {
  if (target < 0) return 0;
  std::copy_n(z, vocab, scratch);
  T total;
  return exponentials(scratch, vocab, total) - z[target];
}

// dz = scale (softmax(z) - onehot(target)); zero where the target is ignored.
template <class T>
void cross_entropy_backward(const T* z, Index vocab, int target, T scale, T* dz) {
  if (target < 0) {
    for (Index i = 0; i < vocab; ++i) dz[i] = 0;
    return;
  }
  std::copy_n(z, vocab, dz);
  softmax(dz, vocab);
  dz[target] -= 1;
  for (Index i = 0; i < vocab; ++i) dz[i] *= scale;
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
