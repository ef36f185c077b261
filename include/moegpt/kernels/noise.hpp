#pragma once
// Noise with a learned standard deviation: h += normal (softplus(a) + floor), forward and backward.
#include <moegpt/kernels/vector_math.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// log(1 + exp a) = max(a, 0) + log1p(e), e = exp(-|a|)
template <class T>
[[gnu::always_inline]] inline Vector<T> softplus(const Vector<T>& a) {
  const Vector<T> e = exponential(a < T(0) ? a : -a), u = e + T(1);
  // log1p(e) = log(u) e / (u - 1), which undoes the rounding of u (Goldberg 1991)
  const auto one = u == T(1);
  const Vector<T> log1p = one ? e : logarithm<T>(u) * (e / (one ? u : u - T(1)));
  return (a < T(0) ? Vector<T>{} : a) + log1p;
}

// h += normal (softplus(a) + floor)
template <class T>
[[gnu::noinline]] void add_noise(const T* normal, const T* a, T floor, T* h, Index n) {
  constexpr Index piece = 16 * lanes<T>;
  T noise[piece];
  for (Index i = 0; i < n; i += piece) {
    const Index count = n - i < piece ? n - i : piece;
    map2(count, normal + i, a + i, noise,
         [&](Vector<T> z, Vector<T> v) { return z * (softplus<T>(v) + floor); });
    map2(count, h + i, noise, h + i, [](Vector<T> x, Vector<T> y) { return x + y; });
  }
}

// da = dh normal sigmoid(a)
template <class T>
[[gnu::noinline]] void add_noise_backward(const T* normal, const T* a, const T* dh, T* da, Index n) {
  map2(n, normal, a, da, [](Vector<T> z, Vector<T> v) { return z / (T(1) + exponential(-v)); });
  map2(n, dh, da, da, [](Vector<T> x, Vector<T> y) { return x * y; });
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
