#pragma once
// LayerNorm (Ba et al. 2016) and RMSNorm (Zhang, Sennrich 2019) over rows of D features. Only the two numbers
// per token that backward cannot cheaply recompute are kept.
#include <moegpt/kernels/reduce.hpp>

#include <cmath>

namespace moegpt::inline MOEGPT_BUILD {
namespace kernels {

// y = (x - mean) / sqrt(var + epsilon) * gamma + beta; beta may be null.
template <class T>
void layer_norm(const T* x, const T* gamma, const T* beta, T* y, T& mean, T& rstd, Index D, T epsilon) {
  const T m = sum(x, D) / T(D);
  const T var = reduce<T>(
      D, [&](Index i) { const Vector<T> c = load(x + i) - m; return c * c; },
      [&](Index i) { return (x[i] - m) * (x[i] - m); }) / T(D);
  const T r = 1 / std::sqrt(var + epsilon);
  for (Index i = 0; i < D; ++i) y[i] = (x[i] - m) * r * gamma[i] + (beta ? beta[i] : T(0));
  mean = m;
  rstd = r;
}

// With g = dy gamma and xhat = (x - mean) rstd:  dx = rstd (g - mean(g) - xhat mean(g xhat)).
template <class T>
void layer_norm_backward(const T* x, const T* gamma, T m, T r, const T* dy, T* dx, Index D) {
  const T mean_g = reduce<T>(
      D, [&](Index i) { return load(dy + i) * load(gamma + i); },
      [&](Index i) { return dy[i] * gamma[i]; }) / T(D);
  const T mean_gx = r * reduce<T>(
      D, [&](Index i) { return load(dy + i) * load(gamma + i) * (load(x + i) - m); },
      [&](Index i) { return dy[i] * gamma[i] * (x[i] - m); }) / T(D);
  for (Index i = 0; i < D; ++i) dx[i] = r * (dy[i] * gamma[i] - mean_g - (x[i] - m) * r * mean_gx);
}

// y = x / sqrt(mean(x^2) + epsilon) * gamma
template <class T>
void rms_norm(const T* x, const T* gamma, T* y, T& rstd, Index D, T epsilon) {
  const T r = 1 / std::sqrt(dot(x, x, D) / T(D) + epsilon);
  for (Index i = 0; i < D; ++i) y[i] = x[i] * r * gamma[i];
  rstd = r;
}

// With g = dy gamma and xhat = x rstd:  dx = rstd (g - xhat mean(g xhat)).
template <class T>
void rms_norm_backward(const T* x, const T* gamma, T r, const T* dy, T* dx, Index D) {
  const T mean_gx = r * reduce<T>(
      D, [&](Index i) { return load(dy + i) * load(gamma + i) * load(x + i); },
      [&](Index i) { return dy[i] * gamma[i] * x[i]; }) / T(D);
  for (Index i = 0; i < D; ++i) dx[i] = r * (dy[i] * gamma[i] - x[i] * r * mean_gx);
}

}  // namespace kernels
}  // namespace moegpt::inline MOEGPT_BUILD
