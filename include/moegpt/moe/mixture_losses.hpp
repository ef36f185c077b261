#pragma once
// Auxiliary losses of one MoE layer: forward computes their values, backward the RouterSignal. Any router
// tape works, so that user-defined MoE layers can use them.
#include <moegpt/routing/balance.hpp>
#include <moegpt/routing/token_choice.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Base of an MoE layer's tape: the losses of this layer, without coefficients. If the balance rule combines
// layers, `balance` is set after the last block to this layer's term of the model's loss
// (moe/layer_mean.hpp).
template <class T>
struct LossTape : RouterLosses<T> {
  Buffer<T> mean_score;      // [groups, E] P of the balance loss
  Buffer<T> load_share;      // [groups, E] f of the balance loss / number of groups; see layer_mean.hpp
  Buffer<Index> load_count;  // [groups, E] the loads of f, with those of Objective::step_loads
  Buffer<T> gate_sum;        // [E] importance: the sum of gates over the expert's slots
  Buffer<double> of_ranks;   // with Ranks, sums over them: tokens, then [4, E]: see sum_over_ranks

  [[gnu::noinline]] void resize(int experts, const Pass& pass) {
    const Index groups = groups_in(routing_of(pass).objective.balance_rule.group, pass);
    mean_score.resize(groups * experts);
    load_share.resize(groups * experts);
    load_count.resize(groups * experts);
    gate_sum.resize(experts);
    of_ranks.resize(routing_of(pass).ranks ? 1 + 4 * experts : 0);
  }
};
namespace detail {
template <class T>
void take_losses(const LossTape<T>&);
}
// Only a tape with this base has losses; names of its members do not matter.
template <class Tape>
concept HasLosses = requires(const Tape tape) { detail::take_losses(tape); };

template <class T>
struct LossScratch {
  Buffer<T> d_mean_score, d_load;  // [groups, E], [E]
  [[gnu::noinline]] void resize(int experts, const Pass& pass) {
    d_mean_score.resize(groups_in(routing_of(pass).objective.balance_rule.group, pass) * experts);
    d_load.resize(experts);
  }
};

namespace detail {

// The input of the losses from a router's tape; null: the tape does not declare it.
template <class T>
struct Routed {
  MatrixView<const T> score;
  In<1, T> lse;
  const Buffer<int>*chosen = nullptr, *selected = nullptr;  // [tokens, K]
  const Buffer<T>* load = nullptr;                          // [E] expected
  T own = 0;
  template <class Tape>
  explicit Routed(const Tape& tape) : score(tape.score), lse(tape.lse) {
    if constexpr (HasChoices<Tape>) chosen = selected = &tape.chosen;
    if constexpr (HasSelected<Tape>) selected = &tape.selected;
    if constexpr (HasExpectedLoad<Tape>) load = &tape.load;
    if constexpr (HasOwnLoss<Tape>) own = tape.own_loss;
  }
  void check_sizes(Index tokens, int K, int E) const {
    check(score.rows == tokens && score.cols == E && lse.count == tokens, "a router's tape has scores of ",
          score.rows, " tokens and ", score.cols, " experts and lse of ", lse.count, ", but the mixture has ",
          tokens, " tokens and ", E, " experts: resize them in its resize(pass)");
    for (const Buffer<int>* table : {chosen, selected})
      check(!table || table->size() == tokens * K,
            "a router's tape says has_choices, but `chosen` (or `selected`) has ", table ? table->size() : 0,
            " numbers: it must be [tokens, choices], here ", tokens, " x ", K);
    check(!load || load->size() == E, "a router's tape says has_expected_load, but `load` has ",
          load ? load->size() : 0, " numbers: it must be [experts], here ", E);
  }
};

// count [groups, E]: the choices that f counts. They are counted before capacity; if the tape has no
// `chosen`, slots are counted.
template <class T>
[[gnu::noinline]] void count_loads(const Routed<T>& routed, const RoutingPlan<T>& plan,
                                   const BalanceRule& rule, Index groups, Buffer<Index>& count) {
  const int E = plan.experts, K = plan.choices;
  const bool first = rule.choices == BalanceRule::Choices::first;
  const Index length = plan.tokens / groups;
  if (groups == 1 && !first) {
    std::copy_n(plan.wanted.begin(), E, count.begin());
    return;
  }
  count.fill(0);
  if (const Buffer<int>* chosen = first ? routed.selected : routed.chosen)
    for (Index n = 0; n < plan.tokens; ++n)
      for (int j = 0; j < (first ? 1 : K); ++j) {
        const Index pair = n * K + j;
        if (has_expert(chosen->data(), pair, K, E)) ++count[n / length * E + (*chosen)[pair]];
      }
  else
    for (int e = 0; e < E; ++e)
      for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s)
        if (!first || plan.choice[s] == 0) ++count[plan.token[s] / length * E + e];
}

// Mean scores of the batch, m_e = sum_g part(g) mean_ge, with part(g) the fraction of tokens in group g. With
// Ranks `tokens` and means are of all of them, but part(g) is of this rank's tokens.
template <class T>
struct BatchScores {
  const LossTape<T>& tape;
  Index groups;
  int E;
  const Pass& pass;
  double own_tokens = static_cast<double>(std::max<Index>(1, routed_tokens(pass)));
  double tokens = tape.of_ranks.size() > 0 ? std::max(1.0, tape.of_ranks[0]) : own_tokens;

  double part(Index g) const {
    const Group group = routing_of(pass).objective.balance_rule.group;
    return groups == 1 ? 1 : static_cast<double>(tokens_in(group, g, pass)) / own_tokens;
  }
  double own(int e) const {
    double sum = 0;
    for (Index g = 0; g < groups; ++g) sum += part(g) * static_cast<double>(tape.mean_score[g * E + e]);
    return sum;
  }
  double operator()(int e) const {
    return tape.of_ranks.size() > 0 ? tape.of_ranks[1 + 3 * E + e] / tokens : own(e);
  }
};

// tape.of_ranks, sums over Ranks: tokens, then for each expert the loads of f of the batch, gates, (expected)
// loads and scores. load_count (of the batch) and gate_sum on the tape become these sums.
template <class T>
[[gnu::noinline]] void sum_over_ranks(const Routed<T>& routed, const RoutingPlan<T>& plan, const Pass& pass,
                                      Index groups, LossTape<T>& tape) {
  const RoutingContext& routing = routing_of(pass);
  const int E = plan.experts;
  const bool of_batch = routing.objective.balance_rule.group == Group::batch;
  const auto tokens = static_cast<double>(routed_tokens(pass));
  Buffer<double>& sum = tape.of_ranks;
  const BatchScores<T> scores{tape, groups, E, pass};
  sum[0] = tokens;
  for (int e = 0; e < E; ++e) {
    sum[1 + e] = of_batch ? static_cast<double>(tape.load_count[e]) : 0;
    sum[1 + E + e] = static_cast<double>(tape.gate_sum[e]);
    sum[1 + 2 * E + e] = static_cast<double>(routed.load ? (*routed.load)[e] : T(plan.wanted[e]));
    sum[1 + 3 * E + e] = tokens * scores.own(e);
  }
  routing.ranks->sum(sum.data(), sum.size());
  for (int e = 0; e < E; ++e) {
    if (of_batch) tape.load_count[e] = static_cast<Index>(sum[1 + e]);
    tape.gate_sum[e] = static_cast<T>(sum[1 + E + e]);
  }
}

// tape.load_share: f of the balance rule, divided by the number of groups with tokens; with the loads of the
// step also in tape.load_count.
template <class T>
[[gnu::noinline]] void measure_shares(int E, const Pass& pass, LossTape<T>& tape) {
  const Objective& o = routing_of(pass).objective;
  const BalanceRule& rule = o.balance_rule;
  const Index groups = groups_in(rule.group, pass);
  Buffer<Index>& count = tape.load_count;
  const Index own = routed_tokens(pass);
  const Index of_batch = tape.of_ranks.size() > 0 ? static_cast<Index>(tape.of_ranks[0]) : own;

  const bool with_step = rule.group == Group::batch && !o.step_loads.count.empty();
  Index of_step = rule.group == Group::batch ? of_batch - own : 0;
  if (with_step) {
    const Index* others = o.step_loads.of(pass.layer, E);
    for (int e = 0; e < E; ++e) count[e] = others[e] + (o.step_loads.complete ? 0 : count[e]);
    of_step = o.step_loads.tokens - (o.step_loads.complete ? own : own - of_batch);
  }
  double filled = 0;
  for (Index g = 0; g < groups; ++g) filled += tokens_in(rule.group, g, pass) > 0;
  for (Index g = 0; g < groups; ++g)
    load_shares(rule, count.data() + g * E, E, tokens_in(rule.group, g, pass) + of_step,
                1 / std::max(filled, 1.0), tape.load_share.data() + g * E);
}

template <class T>
[[gnu::noinline]] void measure_losses(const Routed<T>& routed, const RoutingPlan<T>& plan, LossTape<T>& tape,
                                      const Pass& pass) {
  const Objective& o = routing_of(pass).objective;
  const int E = plan.experts;
  routed.check_sizes(plan.tokens, plan.choices, E);
  const Index groups = groups_in(o.balance_rule.group, pass);
  tape.resize(E, pass);
  mean_scores(routed.score, o.balance_rule.group, pass, tape.mean_score.data());
  count_loads(routed, plan, o.balance_rule, groups, tape.load_count);
  for (int e = 0; e < E; ++e) {
    double sum = 0;
    for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s) sum += static_cast<double>(plan.gate[s]);
    tape.gate_sum[e] = static_cast<T>(sum);
  }
  const bool ranks = tape.of_ranks.size() > 0;
  if (ranks) sum_over_ranks(routed, plan, pass, groups, tape);
  measure_shares(E, pass, tape);
  tape.balance = balance_loss(tape.load_share.data(), tape.mean_score.data(), E, groups);
  tape.z = z_loss<T>(routed.lse, pass);

  const T* gates = tape.gate_sum.data();
  const Dispersion importance(E, [&](int e) { return static_cast<double>(gates[e]); });
  const Dispersion load(E, [&](int e) {
    if (ranks) return tape.of_ranks[1 + 2 * E + e];
    return static_cast<double>(routed.load ? (*routed.load)[e] : T(plan.wanted[e]));
  });
  const BatchScores<T> scores{tape, groups, E, pass};
  const Dispersion dispersion(E, scores);
  tape.importance = static_cast<T>(importance.cv2(o.variation));
  tape.load = static_cast<T>(load.cv2(o.variation));
  tape.variance = static_cast<T>(dispersion.variance(Variance::unbiased));
  tape.count = static_cast<T>(dispersion.variance(Variance::population) * scores.tokens * scores.tokens);
  tape.own = routed.own;
}

// The signal: dP and d_load in scratch; d_gate [slots] += gradient of the importance loss. With Ranks a
// coefficient has this rank's share of the tokens as a factor, but the gradients of sums have none.
template <class T>
[[gnu::noinline]] RouterSignal<T> signal_of_losses(const LossTape<T>& tape, const T* expected_load,
                                                   const RoutingPlan<T>& plan, T* d_gate,
                                                   LossScratch<T>& scratch, const Pass& pass) {
  const Objective o = objective_of(pass);
  const Group group = o.balance_rule.group;
  const int E = plan.experts;
  const Index groups = groups_in(group, pass);
  const bool ranks = tape.of_ranks.size() > 0;
  const double whole =
      ranks ? tape.of_ranks[0] / static_cast<double>(std::max<Index>(1, routed_tokens(pass))) : 1;
  RouterSignal<T> signal{.d_gate = d_gate, .z = T(o.z), .group = group, .own = T(o.own)};
  scratch.resize(E, pass);
  if (o.balance != 0 || o.variance != 0 || o.count != 0) {
    T* d_mean = scratch.d_mean_score.data();
    scratch.d_mean_score.fill(0);
    balance_loss_backward(tape.load_share.data(), E, groups, T(o.balance), d_mean);
    signal.d_mean_score = d_mean;
    if (o.variance != 0 || o.count != 0) {  // m_e = sum over groups of part P_ge
      const BatchScores<T> m{tape, groups, E, pass};
      const Dispersion dispersion(E, m);
      const double count = o.count * m.tokens * m.tokens;
      for (int e = 0; e < E; ++e) {
        const double d = o.variance * dispersion.d_variance(Variance::unbiased, m(e)) +
                         count * dispersion.d_variance(Variance::population, m(e));
        for (Index g = 0; g < groups; ++g) d_mean[g * E + e] += static_cast<T>(m.part(g) * d);
      }
    }
  }
  if (o.importance != 0) {
    const Dispersion importance(E, [&](int e) { return static_cast<double>(tape.gate_sum[e]); });
    for (int e = 0; e < E; ++e) {
      const T d =
          T(whole * o.importance * importance.d_cv2(o.variation, static_cast<double>(tape.gate_sum[e])));
      for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s) d_gate[s] += d;
    }
  }
  if (o.load != 0 && expected_load) {
    const auto load_of = [&](int e) {
      return ranks ? tape.of_ranks[1 + 2 * E + e] : static_cast<double>(expected_load[e]);
    };
    const Dispersion load(E, load_of);
    for (int e = 0; e < E; ++e) scratch.d_load[e] = T(whole * o.load * load.d_cv2(o.variation, load_of(e)));
    signal.d_load = scratch.d_load.data();
  }
  return signal;
}

}  // namespace detail

// Forward: computes the losses into `tape`. std::invalid_argument for a router's tape of wrong sizes.
template <class T, class RouterTape>
void measure_losses(const RouterTape& router, const RoutingPlan<T>& plan, LossTape<T>& tape,
                    const Pass& pass) {
  detail::measure_losses<T>(detail::Routed<T>(router), plan, tape, pass);
}
// Backward: returns the RouterSignal. Adds the gradient of the importance loss to d_gate [slots].
template <class T, class RouterTape>
RouterSignal<T> signal_of_losses(const LossTape<T>& tape, const RouterTape& router,
                                 const RoutingPlan<T>& plan, T* d_gate, LossScratch<T>& scratch,
                                 const Pass& pass) {
  const Buffer<T>* load = detail::Routed<T>(router).load;
  return detail::signal_of_losses<T>(tape, load ? load->data() : nullptr, plan, d_gate, scratch, pass);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
