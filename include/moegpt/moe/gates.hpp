#pragma once
// Gates: how much each of a token's chosen experts counts, from their logits z and their scores s; all of it for
// the `count` chosen, best first. forward fills gate; backward adds to dz and ds, for either way the gradient may
// take. Write one like these and give it to TopKRouterWith.
#include <moegpt/kernels/softmax.hpp>

#include <algorithm>
#include <ratio>

namespace moegpt::inline MOEGPT_BUILD {

enum class Gates {
  renormalised,   // softmax over the chosen logits; the same as softmax over all, divided by the chosen sum
  probability,    // softmax over all: gates of a token sum to less than 1
};

struct RenormalisedGates {
  template <class T>
  static void forward(const T* z, const T*, T* gate, int count) {
    std::copy_n(z, count, gate);
    kernels::softmax(gate, count);
  }
  template <class T>
  static void backward(const T*, const T* gate, const T* d_gate, T* dz, T*, int count) {
    kernels::softmax_backward(gate, d_gate, dz, count);   // dz = g (dg - <dg, g>)
  }
};
struct ProbabilityGates {
  template <class T>
  static void forward(const T*, const T* s, T* gate, int count) {
    std::copy_n(s, count, gate);
  }
  template <class T>
  static void backward(const T*, const T*, const T* d_gate, T*, T* ds, int count) {
    for (int j = 0; j < count; ++j) ds[j] += d_gate[j];
  }
};
template <Gates G>
using GateRule = std::conditional_t<G == Gates::renormalised, RenormalisedGates, ProbabilityGates>;

}  // namespace moegpt::inline MOEGPT_BUILD
