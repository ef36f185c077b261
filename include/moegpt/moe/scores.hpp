#pragma once
// Scores: how much each expert suits a token, from its row of logits z. Of every kind
//   forward      s from z, and `share`, which is s divided by its sum: what balance losses and metrics look at;
//                returns log sum exp of z
//   backward     dz += what reaches z from ds, the gradient of s, and d_share
//   add_softmax  dz += a softmax(z)
// Tapes keep the shares, and the logits where a kind cannot do without.
#include <moegpt/kernels/softmax.hpp>

#include <algorithm>

namespace moegpt::inline MOEGPT_BUILD {

// s = softmax(z), which is its own share.
struct SoftmaxScores {
  static constexpr bool keeps_logits = false;
  template <class T>
  static T forward(const T* z, T* s, T* share, int E) {
    std::copy_n(z, E, share);
    const T lse = kernels::softmax(share, E);
    std::copy_n(share, E, s);
    return lse;
  }
  template <class T>
  static T score_of(const T* share, const T*, int e) { return share[e]; }
  template <class T>
  static void backward(const T* s, const T*, T* ds, const T* d_share, T* dz, int E) {
    for (int e = 0; e < E; ++e) ds[e] += d_share[e];
    kernels::softmax_backward(s, ds, dz, E);   // dz = s (ds - <ds, s>)
  }
  template <class T>
  static void add_softmax(const T* s, const T*, T, T a, T* dz, int E) {
    for (int e = 0; e < E; ++e) dz[e] += a * s[e];
  }
};

// s = f(z), each expert for itself. With S = sum_e s_e and share = s / S:
//   ds += (d_share - <d_share, share>) / S,   dz += ds f'(z)
template <class Function>
struct PointwiseScores {
  static constexpr bool keeps_logits = true;
  template <class T>
  static T forward(const T* z, T* s, T* share, int E) {
    std::copy_n(z, E, s);
    T total;
    const T lse = kernels::exponentials(s, E, total);
    for (int e = 0; e < E; ++e) s[e] = Function::value(z[e]);
    total = kernels::sum(s, E);
    for (int e = 0; e < E; ++e) share[e] = total > 0 ? s[e] / total : T(0);
    return lse;
  }
  template <class T>
  static T score_of(const T*, const T* z, int e) { return Function::value(z[e]); }
  template <class T>
  static void backward(const T* share, const T* z, T* ds, const T* d_share, T* dz, int E) {
    T total = 0, mean = 0;
    for (int e = 0; e < E; ++e) {
      total += Function::value(z[e]);
      mean += d_share[e] * share[e];
    }
    for (int e = 0; e < E; ++e)
      dz[e] += (ds[e] + (total > 0 ? (d_share[e] - mean) / total : T(0))) * Function::slope(z[e]);
  }
  template <class T>
  static void add_softmax(const T*, const T* z, T lse, T a, T* dz, int E) {
    for (int e = 0; e < E; ++e) dz[e] += a * std::exp(z[e] - lse);
  }
};

// DeepSeek-V3: every expert is judged by itself.
struct Sigmoid {
  template <class T>
  static T value(T z) { return 1 / (1 + std::exp(-z)); }
  template <class T>
  static T slope(T z) { return value(z) * (1 - value(z)); }
};
using SigmoidScores = PointwiseScores<Sigmoid>;

// sqrt(log(1 + exp z)), Megatron's option.
struct RootSoftplus {
  template <class T>
  static T value(T z) { return std::sqrt(std::max(z, T(0)) + std::log1p(std::exp(-std::abs(z)))); }
  template <class T>
  static T slope(T z) {
    const T s = value(z);
    return s > 0 ? Sigmoid::value(z) / (2 * s) : T(0);
  }
};
using RootSoftplusScores = PointwiseScores<RootSoftplus>;

}  // namespace moegpt::inline MOEGPT_BUILD
