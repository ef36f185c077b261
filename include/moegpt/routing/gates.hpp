#pragma once
// Gates: the combine factors of a token's `count` selected experts, from their logits z [count] and scores s
// [count], best first. forward computes gate [count]; backward adds to dz and ds. A rule whose gate is
// constant for count = 1 declares `constant_alone = true`. TopKRouterWith takes any such type.
#include <moegpt/kernels/softmax.hpp>

#include <algorithm>
#include <ratio>
#include <string>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Gates {
  renormalised,  // softmax over the selected logits (norm_topk_prob = true)
  probability,   // softmax over all logits (norm_topk_prob = false); gates of a token sum to less than 1
};
inline std::string text_of(Gates gates) {
  return gates == Gates::renormalised ? "Gates::renormalised" : "Gates::probability";
}

inline std::string text_of(bool yes) { return yes ? "true" : "false"; }
template <class Ratio>
std::string text_of() {
  return "std::ratio<" + std::to_string(Ratio::num) + ", " + std::to_string(Ratio::den) + ">";
}

struct RenormalisedGates {
  static constexpr bool constant_alone = true;
  template <class T>
  static void forward(const T* z, const T*, T* gate, int count) {
    std::copy_n(z, count, gate);
    kernels::softmax(gate, count);
  }
  template <class T>
  static void backward(const T*, const T* gate, const T* d_gate, T* dz, T*, int count) {
    kernels::softmax_backward(gate, d_gate, dz, count);  // dz = g (dg - <dg, g>)
  }
};

// g = a s, with a = Scale, a std::ratio (DeepSeek's routed_scaling_factor).
template <class Scale = std::ratio<1>>
struct ScoreGates {
  static_assert(Scale::num > 0 && Scale::den > 0, "ScoreGates: the scale must be more than 0");
  template <class T>
  static constexpr T scale = T(Scale::num) / T(Scale::den);
  template <class T>
  static void forward(const T*, const T* s, T* gate, int count) {
    for (int j = 0; j < count; ++j) gate[j] = scale<T> * s[j];
  }
  template <class T>
  static void backward(const T*, const T*, const T* d_gate, T*, T* ds, int count) {
    for (int j = 0; j < count; ++j) ds[j] += scale<T> * d_gate[j];
  }
};
using ProbabilityGates = ScoreGates<>;
template <Gates G>
using GateRule = std::conditional_t<G == Gates::renormalised, RenormalisedGates, ProbabilityGates>;

// g = a s / r with r = (sum_j s_j^P)^(1/P) over the selected experts: the P-norm of g is a (megablocks'
// moe_normalize_expert_weights; P = 1: DeepSeek's normalised sigmoids). With u = s / r:
//   ds_j = a (dg_j - <dg, u> u_j^(P-1)) / r
// r = 0: gates and gradients are 0.
template <int P, class Scale = std::ratio<1>>
struct PNormGates {
  static_assert(P >= 1, "PNormGates: P must be at least 1");
  static_assert(Scale::num > 0 && Scale::den > 0, "PNormGates: the scale must be more than 0");
  static constexpr bool constant_alone = true;  // a
  static std::string text() {
    const bool scaled = Scale::num != Scale::den;
    return "PNormGates<" + std::to_string(P) + (scaled ? ", " + text_of<Scale>() : "") + ">";
  }
  template <class T>
  static constexpr T scale = T(Scale::num) / T(Scale::den);

  template <class T>
  static void forward(const T*, const T* s, T* gate, int count) {
    const T r = norm(s, count);
    for (int j = 0; j < count; ++j) gate[j] = r == 0 ? T(0) : scale<T> * (s[j] / r);
  }
  template <class T>
  static void backward(const T* s, const T*, const T* d_gate, T*, T* ds, int count) {
    const T r = norm(s, count);
    if (r == 0) return;
    T mean = 0;
    for (int j = 0; j < count; ++j) mean += d_gate[j] * (s[j] / r);
    for (int j = 0; j < count; ++j) ds[j] += scale<T> * (d_gate[j] - mean * power(s[j] / r, P - 1)) / r;
  }

 private:
  template <class T>
  static T power(T x, int n) {
    T y = 1;
    while (n-- > 0) y *= x;
    return y;
  }
  template <class T>
  static T norm(const T* s, int count) {
    T total = 0;
    for (int j = 0; j < count; ++j) total += power(s[j], P);
    return P == 1 ? total : P == 2 ? std::sqrt(total) : std::pow(total, T(1) / P);
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
