#pragma once
// One Adam step over a run of numbers, in one pass.
#include <moegpt/core/simd.hpp>

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
[[gnu::always_inline]] inline void adam_lanes(const AdamStep<T>& s, const T* g, T* w, T* m, T* v) {
  const Vector<T> wi = load(w), gi = s.gradient_scale * load(g) + s.l2 * wi;
  const Vector<T> mi = s.beta1 * load(m) + (1 - s.beta1) * gi;
  const Vector<T> vi = s.beta2 * load(v) + (1 - s.beta2) * gi * gi;
  store(m, mi);
  store(v, vi);
  store(w, s.shrink * wi - s.rate * mi / (square_root(vi) * s.root_correction + s.epsilon));
}

template <class T>
[[gnu::noinline]] void adam(const AdamStep<T>& step, const T* g, T* w, T* m, T* v, Index n) {
  constexpr Index W = lanes<T>;
  const AdamStep<T> s = step;   // a copy, which no store can change
  const Index whole = n / W * W;
  constexpr Index ahead = 1024 / sizeof(T);
  for (Index i = 0; i < whole; i += W) {
    __builtin_prefetch(g + i + ahead);
    __builtin_prefetch(w + i + ahead);
    __builtin_prefetch(m + i + ahead);
    __builtin_prefetch(v + i + ahead);
    adam_lanes(s, g + i, w + i, m + i, v + i);
  }
  if (whole < n) {   // the last few among zeros, and v among ones to divide by, by the same operations
    T last[4][W] = {};
    for (T& v_beyond : last[3]) v_beyond = 1;
    const auto bytes = sizeof(T) * static_cast<std::size_t>(n - whole);
    const T* from[4] = {g + whole, w + whole, m + whole, v + whole};
    T* to[4] = {nullptr, w + whole, m + whole, v + whole};
    for (int i = 0; i < 4; ++i) std::memcpy(last[i], from[i], bytes);
    adam_lanes(s, last[0], last[1], last[2], last[3]);
    for (int i = 1; i < 4; ++i) std::memcpy(to[i], last[i], bytes);
  }
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
