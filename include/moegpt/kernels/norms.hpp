#pragma once
// LayerNorm (Ba et al. 2016) and RMSNorm (Zhang, Sennrich 2019) over rows of D features. Saved for backward,
// per row: mean and rstd (LayerNorm), rstd (RMSNorm).
#include <moegpt/core/exec.hpp>
#include <moegpt/kernels/reduce.hpp>

#include <cmath>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace kernels {

// y = (x - mean) / sqrt(var + epsilon) * gamma + beta; beta may be null.
template <class T>
void layer_norm(const T* x, const T* gamma, const T* beta, T* y, T& mean, T& rstd, Index D, T epsilon) {
  const T m = sum(x, D) / T(D);
  const T var = reduce<T>(D,
                          [&](Index i, auto part) {
                            const auto c = part.load(x + i) - m;
                            return c * c;
                          }) /
                T(D);
  const T r = 1 / std::sqrt(var + epsilon);
  for_each_vector<T>(D, [&](Index i, auto part) {
    const auto scaled = (part.load(x + i) - m) * r * part.load(gamma + i);
    part.store(y + i, beta ? scaled + part.load(beta + i) : scaled);
  });
  mean = m;
  rstd = r;
}

// With g = dy gamma and xhat = (x - mean) rstd:  dx = rstd (g - mean(g) - xhat mean(g xhat)).
template <class T>
void layer_norm_backward(const T* x, const T* gamma, T m, T r, const T* dy, T* dx, Index D) {
  const T mean_g = dot(dy, gamma, D) / T(D);
  const T mean_gx = r *
                    reduce<T>(D,
                              [&](Index i, auto part) {
                                return part.load(dy + i) * part.load(gamma + i) * (part.load(x + i) - m);
                              }) /
                    T(D);
  const T slope = r * mean_gx;
  for_each_vector<T>(D, [&](Index i, auto part) {
    const auto g = part.load(dy + i) * part.load(gamma + i);
    part.store(dx + i, r * (g - mean_g - (part.load(x + i) - m) * slope));
  });
}

// y = x / sqrt(mean(x^2) + epsilon) * gamma
template <class T>
void rms_norm(const T* x, const T* gamma, T* y, T& rstd, Index D, T epsilon) {
  const T r = 1 / std::sqrt(dot(x, x, D) / T(D) + epsilon);
  for_each_vector<T>(
      D, [&](Index i, auto part) { part.store(y + i, part.load(x + i) * r * part.load(gamma + i)); });
  rstd = r;
}

// With g = dy gamma and xhat = x rstd:  dx = rstd (g - xhat mean(g xhat)).
template <class T>
void rms_norm_backward(const T* x, const T* gamma, T r, const T* dy, T* dx, Index D) {
  const T mean_gx =
      r *
      reduce<T>(D, [&](Index i,
                       auto part) { return part.load(dy + i) * part.load(gamma + i) * part.load(x + i); }) /
      T(D);
  const T slope = r * mean_gx;
  for_each_vector<T>(D, [&](Index i, auto part) {
    part.store(dx + i, r * (part.load(dy + i) * part.load(gamma + i) - part.load(x + i) * slope));
  });
}

// The same for many tokens [tokens, D]. A task of the backward of gamma and beta owns features and sums in
// token order.
template <class T>
[[gnu::noinline]] void layer_norms(const Exec& exec, MatrixView<const T> x, const T* gamma, const T* beta,
                                   MatrixView<T> y, T* mean, T* rstd, T epsilon) {
  for_each_piece(exec, x.rows, 64, [&](Rows rows) {
    for (Index n = rows.first; n < rows.first + rows.count; ++n)
      layer_norm(x[n], gamma, beta, y[n], mean[n], rstd[n], x.cols, epsilon);
  });
}
// dx;  d_gamma += sum_n dy_n xhat_n,  d_beta += sum_n dy_n. Empty dx, null d_gamma or d_beta: not required.
template <class T>
[[gnu::noinline]] void layer_norms_backward(const Exec& exec, MatrixView<const T> x, const T* gamma,
                                            const T* mean, const T* rstd, MatrixView<const T> dy,
                                            MatrixView<T> dx, T* d_gamma, T* d_beta) {
  if (!dx.empty())
    for_each_piece(exec, x.rows, 64, [&](Rows rows) {
      for (Index n = rows.first; n < rows.first + rows.count; ++n)
        layer_norm_backward(x[n], gamma, mean[n], rstd[n], dy[n], dx[n], x.cols);
    });
  if (d_gamma)
    add_over_rows<T>(exec, x.rows, x.cols, d_gamma, [&](Index n, Index i, auto part) {
      return part.load(dy[n] + i) * ((part.load(x[n] + i) - mean[n]) * rstd[n]);
    });
  if (d_beta) sum_rows<T>(exec, dy, d_beta);
}
template <class T>
[[gnu::noinline]] void rms_norms(const Exec& exec, MatrixView<const T> x, const T* gamma, MatrixView<T> y,
                                 T* rstd, T epsilon) {
  for_each_piece(exec, x.rows, 64, [&](Rows rows) {
    for (Index n = rows.first; n < rows.first + rows.count; ++n)
      rms_norm(x[n], gamma, y[n], rstd[n], x.cols, epsilon);
  });
}
template <class T>
[[gnu::noinline]] void rms_norms_backward(const Exec& exec, MatrixView<const T> x, const T* gamma,
                                          const T* rstd, MatrixView<const T> dy, MatrixView<T> dx,
                                          T* d_gamma) {
  if (!dx.empty())
    for_each_piece(exec, x.rows, 64, [&](Rows rows) {
      for (Index n = rows.first; n < rows.first + rows.count; ++n)
        rms_norm_backward(x[n], gamma, rstd[n], dy[n], dx[n], x.cols);
    });
  if (d_gamma)
    add_over_rows<T>(exec, x.rows, x.cols, d_gamma, [&](Index n, Index i, auto part) {
      return part.load(dy[n] + i) * (part.load(x[n] + i) * rstd[n]);
    });
}

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
