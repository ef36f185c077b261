#pragma once
// Losses that keep experts busy. They take counts as arguments, so that counts may first be summed over layers,
// micro-batches or machines.
#include <moegpt/moe/router.hpp>

#include <algorithm>

namespace moegpt::inline MOEGPT_BUILD {

// Switch balance loss (Fedus et al. 2021): L = E sum_e f_e P_e, with f_e the share of pairs sent to e (a
// constant) and P_e the mean score. Balanced: 1.
template <class T>
T balance_loss(const Index* count, const T* mean_score, int experts) {
  double pairs = 0, loss = 0;
  for (int e = 0; e < experts; ++e) pairs += static_cast<double>(count[e]);
  if (pairs == 0) return 0;
  for (int e = 0; e < experts; ++e) loss += static_cast<double>(count[e]) / pairs * static_cast<double>(mean_score[e]);
  return static_cast<T>(loss * experts);
}

// dL/dP_e = coefficient E f_e
template <class T>
void balance_loss_backward(const Index* count, int experts, T coefficient, T* d_mean_score) {
  double pairs = 0;
  for (int e = 0; e < experts; ++e) pairs += static_cast<double>(count[e]);
  for (int e = 0; e < experts; ++e)
    d_mean_score[e] = pairs > 0 ? coefficient * static_cast<T>(experts * static_cast<double>(count[e]) / pairs) : T(0);
}

// mean[e] over tokens that are not padding, summed in double in token order.
template <int E, class T>
void mean_scores(In<E, T> score, const Pass& pass, T* mean) {
  const double routed = std::max(1.0, static_cast<double>(routed_tokens(pass)));   // nothing routed: zero
  double total[E] = {};
  for (Index n = 0; n < score.count; ++n)
    if (!pass.is_padding(n))
      for (int e = 0; e < E; ++e) total[e] += static_cast<double>(score[n][e]);
  for (int e = 0; e < E; ++e) mean[e] = static_cast<T>(total[e] / routed);
}

// Router z-loss (Zoph et al. 2022): mean over tokens of lse^2.
template <class T>
T z_loss(In<1, T> lse, const Pass& pass) {
  const double routed = std::max(1.0, static_cast<double>(routed_tokens(pass)));
  double total = 0;
  for (Index n = 0; n < lse.count; ++n)
    if (!pass.is_padding(n)) total += static_cast<double>(*lse[n]) * static_cast<double>(*lse[n]);
  return static_cast<T>(total / routed);
}

}  // namespace moegpt::inline MOEGPT_BUILD
