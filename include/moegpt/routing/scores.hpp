#pragma once
// Router scores s [E] of one token from its logits z [E]. A kind of scores has
//   forward      computes s, and `normalised` = s / sum of s for balance losses and metrics. On entry
//                normalised is a copy of z. Returns the log-sum-exp of z
//   recompute    s in backward, from normalised, or from z if not are_normalised
//   backward     dz += gradient from ds, of s, and from d_normalised
//   add_softmax  dz += a softmax(z)
// are_normalised: s and normalised are the same memory, and so are ds and d_normalised.
#include <moegpt/kernels/noise.hpp>
#include <moegpt/kernels/softmax.hpp>

#include <algorithm>

namespace moegpt {
inline namespace MOEGPT_BUILD {

inline constexpr int most_experts = 1024;  // of a token-choice router: its rows are on the stack

// s = softmax(z)
struct SoftmaxScores {
  static constexpr bool are_normalised = true;
  template <class T>
  static T forward(const T*, T*, T* normalised, int E) {
    return kernels::softmax(normalised, E);
  }
  template <class T>
  static const T* recompute(const T* normalised, const T*, T*, int) {
    return normalised;
  }
  template <class T>
  static void backward(const T* s, const T*, const T* ds, const T*, T* dz, int E) {
    kernels::softmax_backward(s, ds, dz, E);  // dz = s (ds - <ds, s>)
  }
  template <class T>
  static void add_softmax(const T* s, const T*, T, T a, T* dz, int E) {
    for (int e = 0; e < E; ++e) dz[e] += a * s[e];
  }
};

// s_e = f(z_e). With S = sum_e s_e and normalised = s / S:
//   ds += (d_normalised - <d_normalised, normalised>) / S,   dz += ds f'(z)
template <class Function>
struct PointwiseScores {
  static constexpr bool are_normalised = false;
  template <class T>
  static T forward(const T* z, T* s, T* normalised, int E) {
    T total;
    const T lse = kernels::exponentials(normalised, E, total);
    Function::values(z, s, E);
    total = kernels::sum(s, E);
    for (int e = 0; e < E; ++e) normalised[e] = total == 0 ? T(0) : s[e] / total;
    return lse;
  }
  template <class T>
  static const T* recompute(const T*, const T* z, T* s, int E) {
    Function::values(z, s, E);
    return s;
  }
  template <class T>
  static void backward(const T* s, const T* normalised, const T* ds, const T* d_normalised, T* dz, int E) {
    const T total = kernels::sum(s, E), mean = kernels::dot(d_normalised, normalised, E);
    for (int e = 0; e < E; ++e)
      dz[e] += (ds[e] + (total == 0 ? T(0) : (d_normalised[e] - mean) / total)) * Function::slope(s[e]);
  }
  template <class T>
  static void add_softmax(const T*, const T* z, T lse, T a, T* dz, int E) {
    T p[most_experts];
    kernels::map(E, z, p, [&](Vector<T> v) { return kernels::exponential(v - lse); });
    for (int e = 0; e < E; ++e) dz[e] += a * p[e];
  }
};

// s = sigmoid(z) (DeepSeek-V3).
struct SigmoidFunction {
  template <class T>
  static void values(const T* z, T* s, int E) {
    kernels::map(E, z, s, [](Vector<T> v) { return T(1) / (T(1) + kernels::exponential(-v)); });
  }
  template <class T>
  static T slope(T s) {
    return s * (1 - s);
  }
};
using SigmoidScores = PointwiseScores<SigmoidFunction>;

// s = sqrt(softplus(z)), softplus(z) = log(1 + exp z) (Megatron).  ds/dz = sigmoid(z) / (2 s),
// sigmoid(z) = 1 - exp(-s^2)
struct RootSoftplusFunction {
  template <class T>
  static void values(const T* z, T* s, int E) {
    kernels::map(E, z, s, [](Vector<T> v) { return square_root(kernels::softplus<T>(v)); });
  }
  template <class T>
  static T slope(T s) {
    return s == 0 ? T(0) : -std::expm1(-s * s) / (2 * s);
  }
};
using RootSoftplusScores = PointwiseScores<RootSoftplusFunction>;

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
