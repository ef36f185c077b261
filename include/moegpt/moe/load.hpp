#pragma once
// The smooth load of a noisy router (Shazeer et al. 2017, in Tensor2Tensor's form). With clean logits c, deviations
// d and noisy logits h = c + normal d, the probability that expert i is among the K chosen if its own noise is drawn anew:
//   psi = (K+1)-th largest h if h_i is above it ("in"), the K-th largest otherwise ("out")
//   P_i = Phi((c_i - psi) / d_i),   load_i = sum over tokens of P_i
#include <moegpt/kernels/top_k.hpp>
#include <moegpt/kernels/vector_math.hpp>
#include <moegpt/moe/token_choice.hpp>

#include <algorithm>

namespace moegpt::inline MOEGPT_BUILD {

// One token's row; K < E; rank() comes first. An expert with logit minus infinity is not allowed and has no probability.
// Where noise moves nothing, because d = 0 or nobody competes, being chosen is certain or impossible and has no
// gradient.
template <class T>
struct SelectionProbability {
  const T *clean, *noisy, *noise_std;   // [E]
  int E, K;
  int* order;                           // [K + 1] the largest of noisy

  void rank() { kernels::top_k(noisy, E, K + 1, order); }
  bool in(int e) const { return noisy[e] > noisy[order[K]]; }

  // u = (c - psi) / d, at most so far out that Phi(u) is 0 or 1 and phi(u) is 0: there where it is fixed.
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
  // With r = dP phi(u) / d:  dc += r,  dd += -r u,  and at psi's expert dh += -r.
  void backward(const T* d_probability, bool detached, T* d_clean, T* d_noise_std, T* d_noisy) const {
    T u[most_experts], density[most_experts];
    distances(u);
    kernels::map(E, u, density, [](Vector<T> v) {
      return T(0.39894228040143268) * kernels::exponential(v * v * T(-0.5));
    });
    T d_inside = 0, d_outside = 0;
    for (int e = 0; e < E; ++e) {
      const T r = density[e] > 0 && noise_std[e] >= T(1e-20) ? d_probability[e] * density[e] / noise_std[e] : T(0);
      d_clean[e] += r;
      d_noise_std[e] -= r * u[e];
      (in(e) ? d_inside : d_outside) += r;
    }
    if (detached) return;
    d_noisy[order[K]] -= d_inside;
    d_noisy[order[K - 1]] -= d_outside;
  }
};

}  // namespace moegpt::inline MOEGPT_BUILD
