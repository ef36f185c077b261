#pragma once
// The smooth load of a noisy router (Shazeer et al. 2017, in Tensor2Tensor's form). With clean logits c, deviations
// d and noisy logits h = c + normal d, the chance that expert i is among the K chosen if its own noise is drawn anew:
//   psi = (K+1)-th largest h if h_i is above it ("in"), the K-th largest otherwise ("out")
//   P_i = Phi((c_i - psi) / d_i),   load_i = sum over tokens of P_i
#include <moegpt/kernels/top_k.hpp>
#include <moegpt/kernels/vector_math.hpp>
#include <moegpt/moe/token_choice.hpp>

namespace moegpt::inline MOEGPT_BUILD {

// One token's row; K < E; rank() comes first. An expert with logit minus infinity is not allowed and has no chance.
// Where noise moves nothing, because d = 0 or nobody competes, being chosen is certain or impossible and has no
// gradient.
template <class T>
struct ChosenChance {
  const T *clean, *noisy, *deviation;   // [E]
  int E, K;
  int* order;                           // [K + 1] the largest of noisy

  void rank() { kernels::top_k(noisy, E, K + 1, order); }
  bool in(int e) const { return noisy[e] > noisy[order[K]]; }
  int threshold(int e) const { return in(e) ? order[K] : order[K - 1]; }   // whose h is psi
  bool fixed(int e) const {
    return noisy[e] == kernels::minus_infinity<T> || noisy[threshold(e)] == kernels::minus_infinity<T> ||
           deviation[e] < T(1e-20);
  }
  T distance(int e) const { return (clean[e] - noisy[threshold(e)]) / deviation[e]; }

  void forward(T* chance) const {
    for (int e = 0; e < E; ++e) chance[e] = fixed(e) ? T(0) : distance(e) * T(0.70710678118654752);
    kernels::map(E, chance, chance, [](Vector<T> u) { return T(0.5) + T(0.5) * kernels::error_function(u); });
    for (int e = 0; e < E; ++e)
      if (fixed(e)) chance[e] = T(in(e));
  }
  // With u = (c - psi) / d and r = dP phi(u) / d:  dc += r,  dd += -r u,  and at psi's expert dh += -r.
  void backward(const T* d_chance, bool detached, T* d_clean, T* d_deviation, T* d_noisy) const {
    for (int e = 0; e < E; ++e) {
      if (fixed(e)) continue;
      const T u = distance(e), r = d_chance[e] * T(0.39894228040143268) * std::exp(-u * u / 2) / deviation[e];
      d_clean[e] += r;
      d_deviation[e] -= r * u;
      if (!detached) d_noisy[threshold(e)] -= r;
    }
  }
};

}  // namespace moegpt::inline MOEGPT_BUILD
