#pragma once
// Auxiliary losses as functions of loads and scores, which may first be summed over layers, micro-batches or
// machines. moe/mixture_losses.hpp applies them to an MoE layer.
#include <moegpt/routing/router.hpp>

#include <algorithm>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Balance groups: number of groups, and their tokens that are not padding.
inline Index groups_in(Group group, const Pass& pass) {
  return group == Group::sequence ? pass.shape.batch : 1;
}
inline Index tokens_in(Group group, Index which, const Pass& pass) {
  return group == Group::sequence ? pass.length_of(which) : routed_tokens(pass);
}

// Loss::balance of `mixtures` MoE layers with K choices, for uniform loads and scores.
constexpr double balanced_value(const BalanceRule& rule, int K, int mixtures = 1) {
  const bool per_token =
      rule.share == BalanceRule::Share::of_tokens && rule.choices == BalanceRule::Choices::all;
  return (per_token ? K : 1) * (rule.layers == BalanceRule::Layers::sum ? mixtures : 1);
}

// Balance loss (Shazeer et al. 2018, Fedus et al. 2021): E sum_ge f_ge P_ge over [groups, E], with load
// fractions f, constants in backward, and mean scores P. It can be below its value for uniform f and
// P, because f and P differ.
template <class T>
T balance_loss(const T* share, const T* mean_score, int experts, Index groups = 1) {
  double loss = 0;
  for (Index i = 0; i < groups * experts; ++i)
    loss += static_cast<double>(share[i]) * static_cast<double>(mean_score[i]);
  return static_cast<T>(loss * experts);
}
// dP += coefficient E f;  d_mean_score [groups, E]
template <class T>
void balance_loss_backward(const T* share, int experts, Index groups, T coefficient, T* d_mean_score) {
  for (Index i = 0; i < groups * experts; ++i)
    d_mean_score[i] += coefficient * static_cast<T>(experts) * share[i];
}

// f_e = factor count_e / (sum of counts), or factor count_e / tokens; 0 if the divisor is 0. share [experts]
template <class Count, class T>
void load_shares(const BalanceRule& rule, const Count* count, int experts, Index tokens, double factor,
                 T* share) {
  double whole = static_cast<double>(tokens);
  if (rule.share == BalanceRule::Share::of_pairs) {
    whole = 0;
    for (int e = 0; e < experts; ++e) whole += static_cast<double>(count[e]);
  }
  for (int e = 0; e < experts; ++e)
    share[e] = whole > 0 ? static_cast<T>(factor * static_cast<double>(count[e]) / whole) : T(0);
}

// take(e, sum_n x[n][e]) over `rows` without padding; summed in double, in token order.
template <class T, class F>
void sum_over_tokens(MatrixView<const T> x, Rows rows, const Pass& pass, F&& take) {
  constexpr Index most = 16;
  for (Index first = 0; first < x.cols; first += most) {
    const Index count = std::min(most, x.cols - first);
    double total[most] = {};
    for (Index n = rows.first; n < rows.first + rows.count; ++n)
      if (!pass.is_padding(n))
        for (Index e = 0; e < count; ++e) total[e] += static_cast<double>(x[n][first + e]);
    for (Index e = 0; e < count; ++e) take(first + e, total[e]);
  }
}

// mean [groups, E]: P, the mean score over the tokens of each group; 0 for a group of padding only.
template <class T>
[[gnu::noinline]] void mean_scores(MatrixView<const T> score, Group group, const Pass& pass, T* mean) {
  const Index groups = groups_in(group, pass), length = score.rows / groups;
  for (Index g = 0; g < groups; ++g) {
    const double tokens = std::max(1.0, static_cast<double>(tokens_in(group, g, pass)));
    sum_over_tokens(score, {g * length, length}, pass, [&](Index e, double total) {
      mean[g * score.cols + e] = static_cast<T>(total / tokens);
    });
  }
}

// Router z-loss (Zoph et al. 2022): mean of lse^2 over tokens that are not padding.
template <class T>
T z_loss(In<1, T> lse, const Pass& pass) {
  const double routed = std::max(1.0, static_cast<double>(routed_tokens(pass)));
  double total = 0;
  for (Index n = 0; n < lse.count; ++n)
    if (!pass.is_padding(n)) total += static_cast<double>(*lse[n]) * static_cast<double>(*lse[n]);
  return static_cast<T>(total / routed);
}

// Variance and squared coefficient of variation CV^2 of E values v_e, and their derivatives by one value v.
struct Dispersion {
  double mean = 0, squares = 0;  // squares: sum_e (v_e - mean)^2
  int experts = 0;

  // v(e) -> double
  template <class V>
  Dispersion(int experts_, V&& v) : experts(experts_) {
    for (int e = 0; e < experts; ++e) mean += v(e) / experts;
    for (int e = 0; e < experts; ++e) squares += (v(e) - mean) * (v(e) - mean);
  }
  double divisor(Variance form) const {
    return form == Variance::unbiased ? std::max(experts - 1, 1) : experts;
  }

  // V = squares / divisor,  dV/dv_e = 2 (v_e - mean) / divisor
  double variance(Variance form) const { return squares / divisor(form); }
  double d_variance(Variance form, double v) const { return 2 * (v - mean) / divisor(form); }

  // CV^2 = V / q,  q = mean^2 + 1e-10;  dCV^2/dv_e = dV/dv_e / q - 2 mean V / (E q^2)
  double cv2(Variance form) const { return variance(form) / q(); }
  double d_cv2(Variance form, double v) const {
    return d_variance(form, v) / q() - 2 * mean * variance(form) / (experts * q() * q());
  }

 private:
  double q() const { return mean * mean + 1e-10; }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
