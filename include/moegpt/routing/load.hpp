#pragma once
// Expected load of noisy top-k routing (Shazeer et al. 2017, in Tensor2Tensor's form). Clean logits c, noise
// standard deviations d, noisy logits h = c + normal d. P_i: the probability that expert i is selected if
// only its own noise is resampled.
//   psi_i = (K+1)-th largest h if h_i is larger ("in"), else the K-th largest ("out")
//   P_i = Phi((c_i - psi_i) / d_i),   load_i = sum of P_i over tokens
#include <moegpt/kernels/top_k.hpp>
#include <moegpt/kernels/vector_math.hpp>
#include <moegpt/routing/token_choice.hpp>

#include <algorithm>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// P of one token, K < E. Call rank() first. P is 0 for an expert that is not allowed (logit minus infinity).
// If d_i = 0, or fewer experts compete than K + 1, P_i is 0 or 1 and has no gradient.
template <class T>
struct SelectionProbability {
  const T *clean, *noisy, *noise_std;  // [E]
  int E, K;
  int* order;  // [K + 1] indices of the largest of noisy, descending

  void rank() { kernels::top_k(noisy, E, K + 1, order); }
  bool in(int e) const { return noisy[e] > noisy[order[K]]; }

  // u = (c - psi) / d, clamped to +-40, where Phi(u) is 0 or 1 and phi(u) is 0; +-40 also where P is fixed.
  void distances(T* u) const {
    constexpr T never = kernels::minus_infinity<T>, far = 40;
    const T inside = noisy[order[K]], outside = noisy[order[K - 1]];
    for (int e = 0; e < E; ++e) {
      const bool chosen = noisy[e] > inside;
      const T psi = chosen ? inside : outside;
      const bool fixed = noisy[e] == never || psi == never || noise_std[e] < T(1e-20);
      u[e] = fixed ? (chosen ? far : -far) : std::clamp((clean[e] - psi) / noise_std[e], -far, far);
    }
  }
  void forward(T* probability) const {
    distances(probability);
    kernels::map(E, probability, probability, [](Vector<T> u) {
      return T(0.5) + T(0.5) * kernels::error_function(u * T(0.70710678118654752));
    });
  }
  // With r = dP phi(u) / d:  dc += r,  dd += -r u,  and dh += -r at the expert of psi, unless detached.
  void backward(const T* d_probability, bool detached, T* d_clean, T* d_noise_std, T* d_noisy) const {
    T u[most_experts], density[most_experts];
    distances(u);
    kernels::map(E, u, density,
                 [](Vector<T> v) { return T(0.39894228040143268) * kernels::exponential(v * v * T(-0.5)); });
    T d_inside = 0, d_outside = 0;
    for (int e = 0; e < E; ++e) {
      const T r =
          density[e] > 0 && noise_std[e] >= T(1e-20) ? d_probability[e] * density[e] / noise_std[e] : T(0);
      d_clean[e] += r;
      d_noise_std[e] -= r * u[e];
      (in(e) ? d_inside : d_outside) += r;
    }
    if (detached) return;
    d_noisy[order[K]] -= d_inside;
    d_noisy[order[K - 1]] -= d_outside;
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
