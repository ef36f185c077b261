#pragma once
// One Adam step over a run of numbers, in one pass.
#include <moegpt/core/matrix.hpp>

#include <cmath>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

template <class T>
struct AdamStep {
  T gradient_scale;     // of g, for clipping
  T beta1, beta2;
  T rate;               // learning rate / (1 - beta1^t)
  T root_correction;    // 1 / sqrt(1 - beta2^t)
  T epsilon;            // outside the square root
  T shrink;             // 1 - learning rate * decoupled decay
  T l2;                 // decay added to the gradient instead
};

// g' = scale g + l2 w;  m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2
// w = shrink w - rate m / (sqrt(v) root_correction + epsilon)
template <class T>
void adam(const AdamStep<T>& s, const T* g, T* w, T* m, T* v, Index n) {
  const T c1 = 1 - s.beta1, c2 = 1 - s.beta2;
  for (Index i = 0; i < n; ++i) {
    const T gi = s.gradient_scale * g[i] + s.l2 * w[i];
    const T mi = s.beta1 * m[i] + c1 * gi;
    const T vi = s.beta2 * v[i] + c2 * gi * gi;
    m[i] = mi;
    v[i] = vi;
    w[i] = s.shrink * w[i] - s.rate * mi / (std::sqrt(vi) * s.root_correction + s.epsilon);
  }
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
