#pragma once
// The balance loss under rules that combine L MoE layers, with load fractions f_l and mean scores P_l of
// layer l:
//   mean      sum_l E <f_l, P_l> / L:              f_l := f_l / L
//   pooled    E <sum_l f_l, sum_l P_l> / L^2:      f_l := sum_l f_l / L^2
// With the new f_l, E <f_l, P_l> and its gradient are layer l's term of the model's loss. With layer weights
// w_l, the sum over layers is sum_l w_l E <f_l, P_l>, and the mean is this sum / L.
#include <moegpt/moe/mixture_losses.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <class T>
struct LayerMean {
  int experts = 0, mixtures = 0;
  Buffer<T> load_share, mean_score;  // [groups, E] sums over MoE layers; empty for Layers::sum
  double balance = 0;

  [[gnu::noinline]] void resize(int experts_, const Pass& pass) {
    const BalanceRule& rule = routing_of(pass).objective.balance_rule;
    experts = experts_;
    const Index size = rule.layers == BalanceRule::Layers::sum ? 0 : groups_in(rule.group, pass) * experts;
    load_share.resize(size);
    mean_score.resize(size);
  }
  void start(int experts_, const Pass& pass) {
    resize(experts_, pass);
    load_share.fill(0);
    mean_score.fill(0);
    balance = mixtures = 0;
  }
  // With the layer weight of the mixture, which its gradient has from objective_of(pass). Not for `together`.
  [[gnu::noinline]] void add(const LossTape<T>& tape, double weight = 1) {
    for (Index i = 0; i < load_share.size(); ++i) {
      load_share[i] += tape.load_share[i];
      mean_score[i] += tape.mean_score[i];
    }
    balance += weight * static_cast<double>(tape.balance);
    ++mixtures;
  }
  // The balance loss of the model, after add() of all MoE layers.
  double loss(const BalanceRule& rule) const {
    const double L = std::max(mixtures, 1);
    if (rule.layers == BalanceRule::Layers::sum) return balance;
    if (rule.layers == BalanceRule::Layers::mean) return balance / L;
    const T sum = balance_loss(load_share.data(), mean_score.data(), experts, load_share.size() / experts);
    return static_cast<double>(sum) / (L * L);
  }
  // Sets load_share and balance of one MoE layer to its term of loss().
  [[gnu::noinline]] void divide(const BalanceRule& rule, LossTape<T>& tape) const {
    if (rule.layers == BalanceRule::Layers::sum) return;
    const T L = static_cast<T>(mixtures);
    for (Index i = 0; i < load_share.size(); ++i)
      tape.load_share[i] =
          rule.layers == BalanceRule::Layers::mean ? tape.load_share[i] / L : load_share[i] / (L * L);
    tape.balance =
        balance_loss(tape.load_share.data(), tape.mean_score.data(), experts, load_share.size() / experts);
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
