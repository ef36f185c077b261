#pragma once
// What routers have in common in which each token chooses its K experts by a row of logits: selection, gates,
// the plan, and the way back from gates, balance and z-losses to the logits.
#include <moegpt/kernels/softmax.hpp>
#include <moegpt/kernels/top_k.hpp>
#include <moegpt/moe/router.hpp>

#include <algorithm>

namespace moegpt::inline MOEGPT_BUILD {

enum class Gates {
  renormalised,   // softmax over the chosen logits; the same as softmax over all, divided by the chosen sum
  probability,    // softmax over all: gates of a token sum to less than 1
};

// A rule for the gates of one token's K chosen experts, from their logits z and their probabilities s among all
// experts. backward adds to dz and ds. Write one like these and give it to TopKRouterWith.
struct RenormalisedGates {
  template <class T>
  static void forward(const T* z, const T*, T* gate, int K) {
    std::copy_n(z, K, gate);
    kernels::softmax(gate, K);
  }
  template <class T>
  static void backward(const T* gate, const T* d_gate, T* dz, T*, int K) {
    kernels::softmax_backward(gate, d_gate, dz, K);   // dz = g (dg - <dg, g>)
  }
};
struct ProbabilityGates {
  template <class T>
  static void forward(const T*, const T* s, T* gate, int K) {
    std::copy_n(s, K, gate);
  }
  template <class T>
  static void backward(const T*, const T* d_gate, T*, T* ds, int K) {
    for (int j = 0; j < K; ++j) ds[j] += d_gate[j];
  }
};
template <Gates G>
using GateRule = std::conditional_t<G == Gates::renormalised, RenormalisedGates, ProbabilityGates>;

// K = 1 with renormalised gates: the gate is the constant 1 and only a balance or z-loss trains the router. For
// parity with systems that have it.
template <class Recipe>
struct AllowConstantGate;

template <int E, int K, class T>
struct TokenChoiceTape {
  Tokens<E, T> score;      // softmax of the logits over all experts
  Tokens<1, T> lse;        // log sum exp of the logits
  Buffer<int> chosen;      // [tokens, K] best first
  Buffer<T> gate;          // [tokens, K]
  [[gnu::noinline]] void resize(const Pass& pass) {
    score.resize(pass.tokens());
    lse.resize(pass.tokens());
    chosen.resize(pass.tokens() * K);
    gate.resize(pass.tokens() * K);
  }
};

inline constexpr int most_experts = 1024, most_choices = 64;   // of the two functions below, for their stack

// From logits in `score` to scores, choices and gates in place, and to the plan. score [tokens, E].
template <class Rule, class T>
[[gnu::noinline]] void choose_experts(MatrixView<T> score, int K, T* lse, int* all_chosen, T* all_gates,
                                      RoutingPlan<T>& plan, const Pass& pass) {
  const int E = static_cast<int>(score.cols);
  for_each_piece(pass.exec, score.rows, token_piece, [&](Rows rows) {
    for (Index n = rows.first; n < rows.first + rows.count; ++n) {
      T* z = score[n];
      int* chosen = all_chosen + n * K;
      if (pass.allowed)
        for (int e = 0; e < E; ++e)
          if (!pass.allowed[e]) z[e] = kernels::minus_infinity<T>;
      kernels::top_k(z, E, K, chosen);
      T logit[most_choices], probability[most_choices];
      for (int j = 0; j < K; ++j) logit[j] = z[chosen[j]];
      lse[n] = kernels::softmax(z, E);
      for (int j = 0; j < K; ++j) probability[j] = z[chosen[j]];
      Rule::forward(logit, probability, all_gates + n * K, K);
      for (int j = 0; j < K; ++j)
        if (pass.is_padding(n) || (pass.allowed && !pass.allowed[chosen[j]])) chosen[j] = -1;
    }
  });
  plan.resize(score.rows, K, E);
  plan.assign(all_chosen, all_gates,
              expert_capacity(pass.options.capacity_factor, static_cast<double>(routed_tokens(pass)) * K, E));
}
template <class Rule, int E, int K, class T>
void choose_experts(RoutingPlan<T>& plan, TokenChoiceTape<E, K, T>& tape, const Pass& pass) {
  static_assert(E <= most_experts && K <= most_choices, "token choice: at most 1024 experts and 64 choices");
  choose_experts<Rule, T>(tape.score, K, tape.lse[0], tape.chosen.data(), tape.gate.data(), plan, pass);
}

// dz of every token, from the gates of its slots, the balance loss and the z-loss. Choices are constants, and a
// dropped pair's gate is a constant zero.
//   gates:     dz and ds of the chosen by the rule
//   balance:   ds += d_mean_score / N            dz += s (ds - <ds, s>)
//   z-loss:    dz += 2 z / N lse s
template <class Rule, class T>
[[gnu::noinline]] void choose_experts_backward(const RoutingPlan<T>& plan, MatrixView<const T> score, const T* lse,
                                               const int* all_chosen, const T* all_gates,
                                               const RouterSignal<T>& signal, MatrixView<T> dz, const Pass& pass) {
  const int E = plan.experts, K = plan.choices;
  const T routed = static_cast<T>(routed_tokens(pass));
  for_each_piece(pass.exec, score.rows, token_piece, [&](Rows rows) {
    for (Index n = rows.first; n < rows.first + rows.count; ++n) {
      for (int e = 0; e < E; ++e) dz[n][e] = 0;
      if (pass.is_padding(n)) continue;
      const int* chosen = all_chosen + n * K;
      T d_score[most_experts], d_gate[most_choices], d_logit[most_choices], d_probability[most_choices];
      for (int e = 0; e < E; ++e) d_score[e] = signal.d_mean_score ? signal.d_mean_score[e] / routed : T(0);
      for (int j = 0; j < K; ++j) {
        const Index s = plan.slot[n * K + j];
        d_gate[j] = s >= 0 ? signal.d_weight[s] : T(0);
        d_logit[j] = d_probability[j] = 0;
      }
      Rule::backward(all_gates + n * K, d_gate, d_logit, d_probability, K);
      for (int j = 0; j < K; ++j) {
        if (chosen[j] < 0) continue;   // fewer experts were allowed than K
        dz[n][chosen[j]] += d_logit[j];
        d_score[chosen[j]] += d_probability[j];
      }
      kernels::softmax_backward(score[n], d_score, dz[n], E);
      const T z = 2 * signal.z / routed * lse[n];
      for (int e = 0; e < E; ++e) dz[n][e] += z * score[n][e];
    }
  });
}
template <class Rule, int E, int K, class T>
void choose_experts_backward(const RoutingPlan<T>& plan, const TokenChoiceTape<E, K, T>& tape,
                             const RouterSignal<T>& signal, Out<E, T> dz, const Pass& pass) {
  choose_experts_backward<Rule, T>(plan, tape.score, tape.lse[0], tape.chosen.data(), tape.gate.data(), signal, dz, pass);
}

}  // namespace moegpt::inline MOEGPT_BUILD
