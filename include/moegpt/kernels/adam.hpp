#pragma once
// One step of Adam or AdamW for n elements, in one pass over memory.
#include <moegpt/core/simd.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

template <class T>
struct AdamStep {
  T gradient_scale;  // multiplies g, for clipping
  T beta1, beta2;
  T rate;             // learning rate / (1 - beta1^t)
  T root_correction;  // 1 / sqrt(1 - beta2^t)
  T epsilon;          // outside the square root
  T shrink;           // 1 - learning rate * decoupled decay
  T l2;               // decay that is added to the gradient
};

// g' = scale g + l2 w;  m = beta1 m + (1 - beta1) g';  v = beta2 v + (1 - beta2) g'^2
// w = shrink w - rate m / (sqrt(v) root_correction + epsilon)
template <class T>
[[gnu::noinline]] void adam(const AdamStep<T>& step, const T* g, T* w, T* m, T* v, Index n) {
  const AdamStep<T> s = step;  // a copy, which no store can change
  constexpr Index ahead = 1024 / sizeof(T);
  for_each_vector<T>(n, [&](Index i, auto part) {
    __builtin_prefetch(g + i + ahead);
    __builtin_prefetch(w + i + ahead);
    __builtin_prefetch(m + i + ahead);
    __builtin_prefetch(v + i + ahead);
    const Vector<T> wi = part.load(w + i), gi = s.gradient_scale * part.load(g + i) + s.l2 * wi;
    const Vector<T> mi = s.beta1 * part.load(m + i) + (1 - s.beta1) * gi;
    // Padding of v is 1, so that it does not divide by zero.
    const Vector<T> vi = s.beta2 * part.load(v + i, 1) + (1 - s.beta2) * gi * gi;
    part.store(m + i, mi);
    part.store(v + i, vi);
    part.store(w + i, s.shrink * wi - s.rate * mi / (square_root(vi) * s.root_correction + s.epsilon));
  });
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
