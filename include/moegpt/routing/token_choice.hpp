#pragma once
// Token-choice routers: each token selects its experts by four decisions, each a type:
//   logits      z = W x, or another layer from D to E        last argument of TokenChoiceRouter
//   scores      s = softmax(z), sigmoid(z)                   routing/scores.hpp
//   selection   the K largest, top-p, group-limited          routing/selection.hpp
//   gates       combine factors of the selected experts      routing/gates.hpp
// This header computes the plan, and the backward from gates, balance and z-losses to the logits.
#include <moegpt/layers/linear.hpp>
#include <moegpt/routing/gates.hpp>
#include <moegpt/routing/router.hpp>
#include <moegpt/routing/scores.hpp>
#include <moegpt/routing/selection.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// The decisions about scores, selection and gates.
template <class ScoresType = SoftmaxScores, class SelectionType = LargestLogits,
          class GatesType = RenormalisedGates>
struct Decisions {
  using Scores = ScoresType;
  using Selection = SelectionType;
  using Gates = GatesType;
};

// Whether a selection rule may discard selected experts by their gates.
template <class Selection>
inline constexpr bool discards = requires(const Candidate<float> token) { Selection::keeps(token, 0.f, 0); };

template <int E, int K, class T, bool KeepsLogits = false, bool Discards = false>
struct TokenChoiceTape {
  static constexpr bool has_choices = true, has_selected = Discards;
  Tokens<E, T> score;    // normalised scores of all experts
  Tokens<E, T> logits;   // only if scores are not normalised
  Tokens<1, T> lse;      // log-sum-exp of the logits
  Buffer<int> chosen;    // [tokens, K] best first, then no_expert; discarded experts are no_expert
  Buffer<int> selected;  // [tokens, K] with discarded experts, which stay in the gate normalisation
  Buffer<T> gate;        // [tokens, K]
  [[gnu::noinline]] void resize(const Pass& pass) {
    resize_all(pass, score, lse);
    if (KeepsLogits) logits.resize(pass);
    chosen.resize(pass.tokens() * K);
    if (Discards) selected.resize(pass.tokens() * K);
    gate.resize(pass.tokens() * K);
  }
};

// The first K allowed experts, in index order. Returns their number.
template <class T>
int first_allowed(const Candidate<T>& token, int* chosen) {
  int count = 0;
  for (int e = 0; e < token.experts && count < token.choices; ++e)
    if (token.allows(e)) chosen[count++] = e;
  return count;
}

// Computes scores, experts, gates and the plan. score [tokens, E]: logits on entry, normalised scores on
// return. all_chosen, all_selected, all_gates [tokens, K]; all_selected only if `discards`.
template <class Rule, class T>
[[gnu::noinline]] void choose_experts(MatrixView<T> score, MatrixView<T> logits, const T* bias, int K, T* lse,
                                      int* all_chosen, [[maybe_unused]] int* all_selected, T* all_gates,
                                      RoutingPlan<T>& plan, const Pass& pass) {
  using Scores = typename Rule::Scores;
  const int E = static_cast<int>(score.cols);
  const Key noise = pass.key ? pass.key->with(Purpose::router_noise) : Key{};
  const bool* allowed = allowed_experts(pass);
  for_each_piece(pass.exec, score.rows, token_piece, [&](Rows rows) {
    T z_row[most_experts], s_row[most_experts], gate_logit[most_experts], gate_score[most_experts];
    for (Index n = rows.first; n < rows.first + rows.count; ++n) {
      int* chosen = all_chosen + n * K;
      T* gate = all_gates + n * K;
      T *z = Scores::are_normalised ? z_row : logits[n], *s = Scores::are_normalised ? score[n] : s_row;
      if (allowed)
        for (int e = 0; e < E; ++e)
          if (!allowed[e]) score[n][e] = kernels::minus_infinity<T>;
      std::copy_n(score[n], E, z);
      lse[n] = Scores::forward(z, s, score[n], E);

      const Candidate<T> token{z, s, bias, E, K, pass.key ? &noise : nullptr, pass, n};
      int count = pass.is_padding(n) ? 0 : Rule::Selection::select(token, chosen);
      while (count > 0 && !token.allows(chosen[count - 1])) --count;  // fewer than K are allowed
      if (allowed && lse[n] != lse[n] && !pass.is_padding(n)) count = first_allowed(token, chosen);  // NaN
      for (int j = 0; j < count; ++j) {
        gate_logit[j] = z[chosen[j]];
        gate_score[j] = s[chosen[j]];
      }
      Rule::Gates::forward(gate_logit, gate_score, gate, count);
      for (int j = count; j < K; ++j) {
        chosen[j] = no_expert;
        gate[j] = 0;
      }
      if constexpr (discards<typename Rule::Selection>) {
        std::copy_n(chosen, K, all_selected + n * K);
        for (int j = 0; j < count; ++j)
          if (!Rule::Selection::keeps(token, gate[j], j)) chosen[j] = no_expert;
      }
    }
  });
  plan.resize(score.rows, K, E);
  plan.assign(all_chosen, all_gates, pass);
}

// dz [tokens, E] from gates, balance loss and z-loss. Selections are constants; the gate of a pair without a
// slot is the constant 0. all_selected [tokens, K]: the experts that gates were computed for.
//   gates:     dz and ds of the selected experts, by the gate rule
//   balance:   gradient of the normalised scores
//   z-loss:    dz += 2 z / N lse softmax(z)
template <class Rule, class T>
[[gnu::noinline]] void choose_experts_backward(const RoutingPlan<T>& plan, MatrixView<const T> score,
                                               MatrixView<const T> logits, const T* lse,
                                               const int* all_selected, const T* all_gates,
                                               const RouterSignal<T>& signal, MatrixView<T> dz,
                                               const Pass& pass) {
  using Scores = typename Rule::Scores;
  const int E = plan.experts, K = plan.choices;
  const Index routed = routed_tokens(pass);
  for_each_piece(pass.exec, score.rows, token_piece, [&](Rows rows) {
    T ds[most_experts], d_normalised_row[most_experts], s_row[most_experts];
    T gate_score[most_experts], d_gate[most_experts], d_logit[most_experts], d_score[most_experts];
    T* d_normalised = Scores::are_normalised ? ds : d_normalised_row;
    for (Index n = rows.first; n < rows.first + rows.count; ++n) {
      std::fill_n(dz[n], E, T(0));
      if (pass.is_padding(n)) continue;
      std::fill_n(ds, E, T(0));
      if (!Scores::are_normalised) std::fill_n(d_normalised, E, T(0));
      const int* selected = all_selected + n * K;
      const T *z = Scores::are_normalised ? nullptr : logits[n],
              *s = Scores::recompute(score[n], z, s_row, E);
      int count = 0;
      for (; count < K && selected[count] != no_expert; ++count) {
        const Index slot = plan.slot[n * K + count];
        gate_score[count] = s[selected[count]];
        d_gate[count] = slot != no_slot ? signal.d_gate[slot] : T(0);
        d_logit[count] = d_score[count] = 0;
      }
      Rule::Gates::backward(gate_score, all_gates + n * K, d_gate, d_logit, d_score, count);
      for (int j = 0; j < count; ++j) {
        dz[n][selected[j]] += d_logit[j];
        ds[selected[j]] += d_score[j];
      }
      signal.add_to_scores(n, routed, pass, E, d_normalised);
      Scores::backward(s, score[n], ds, d_normalised, dz[n], E);
      const T a = 2 * signal.z / static_cast<T>(routed) * lse[n];
      if (a != 0) Scores::add_softmax(s, z, lse[n], a, dz[n], E);
    }
  });
}

template <class Rule, int E, int K, class T, bool KeepsLogits, bool Discards>
void choose_experts(RoutingPlan<T>& plan, TokenChoiceTape<E, K, T, KeepsLogits, Discards>& tape,
                    const Pass& pass, const T* bias = nullptr) {
  static_assert(E <= most_experts, "token choice: at most 1024 experts");
  static_assert(Discards == discards<typename Rule::Selection>,
                "token choice: a tape has `selected` if, and only if, the selection rule discards experts");
  choose_experts<Rule, T>(tape.score, tape.logits, bias, K, tape.lse[0], tape.chosen.data(),
                          tape.selected.data(), tape.gate.data(), plan, pass);
}
template <class Rule, int E, int K, class T, bool KeepsLogits, bool Discards>
void choose_experts_backward(const RoutingPlan<T>& plan,
                             const TokenChoiceTape<E, K, T, KeepsLogits, Discards>& tape,
                             const RouterSignal<T>& signal, Out<E, T> dz, const Pass& pass) {
  choose_experts_backward<Rule, T>(plan, tape.score, tape.logits, tape.lse[0],
                                   (Discards ? tape.selected : tape.chosen).data(), tape.gate.data(), signal,
                                   dz, pass);
}

// z = W x, or W x + b.
template <bool HasBias = false>
struct LinearLogits {
  template <int D, int E, class T>
  using For = Linear<D, E, T, HasBias>;
};

// A logits layer with an expected load (routing/noisy_top_k_router.hpp), which is computed after selection
// and whose gradient is in the signal:
//   logits.measure_load(tape, plan, load, pass)                        load [E]
//   logits.backward(x, tape, dz, signal, dx, grad, scratch, pass)      dx is a Sum
// Every logits layer has a forward without scratch. Its path is `gate`, or path().
template <class L>
concept LogitsWithLoad = requires(
    const L logits, L grad, typename L::Tape tape, const typename L::Tape read_tape,
    typename L::Scratch scratch, const RoutingPlan<typename L::Scalar> plan, Buffer<typename L::Scalar> load,
    const RouterSignal<typename L::Scalar> signal, In<L::dim_in, typename L::Scalar> x,
    In<L::dim_out, typename L::Scalar> dz, Sum<L::dim_in, typename L::Scalar> dx, const Pass pass) {
  logits.measure_load(tape, plan, load, pass);
  logits.backward(x, read_tape, dz, signal, dx, grad, scratch, pass);
};

// Router of four decisions. Logits::For<D, E, T> satisfies AddsToDx or LogitsWithLoad.
template <int E, int K, class Rule, class Logits = LinearLogits<>>
struct TokenChoiceRouter {
  static_assert(K >= 1 && K <= E,
                "router: K must lie in 1 .. E: a token cannot choose more experts than exist");
  static constexpr int experts = E, active = K;
  static constexpr bool causal = true,
                        constant_gate = K == 1 && requires { requires Rule::Gates::constant_alone; };

  template <int D, class T = float>
  struct For {
    using Scalar = T;
    static constexpr int dim = D;
    using LogitsType = typename Logits::template For<D, E, T>;

    LogitsType logits;
    // Updated by balance_selection; no gradient.
    [[no_unique_address]] Weight<T, Rule::Selection::biased ? E : 0> selection_bias;

    static constexpr auto fields() {
      return Fields{Field{path(), &For::logits}, Field{"selection_bias", &For::selection_bias, Kind::buffer}};
    }
    using ChoiceTape =
        TokenChoiceTape<E, K, T, !Rule::Scores::are_normalised, discards<typename Rule::Selection>>;
    struct Tape : ChoiceTape {
      static constexpr bool has_expected_load = LogitsWithLoad<LogitsType>;
      typename LogitsType::Tape layer;
      Buffer<T> load;  // [E] only for LogitsWithLoad
      void resize(const Pass& pass) {
        ChoiceTape::resize(pass);
        layer.resize(pass);
        if (has_expected_load) load.resize(E);
      }
    };
    struct Scratch {
      Tokens<E, T> d_logits;
      typename LogitsType::Scratch layer;
      void resize(const Pass& pass) { resize_all(pass, d_logits, layer); }
    };

    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      pass.check_fits(x.count, pass.tokens());
      tape.resize(pass);
      Nothing none;
      moegpt::forward(logits, x, tape.score, tape.layer, none, pass);
      choose_experts<Rule>(plan, tape, pass, selection_bias.data());
      if constexpr (LogitsWithLoad<LogitsType>) logits.measure_load(tape.layer, plan, tape.load, pass);
    }
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, const RouterSignal<T>& signal,
                  Sum<D, T> dx, For& grad, Scratch& scratch, const Pass& pass) const {
      scratch.resize(pass);
      choose_experts_backward<Rule>(plan, tape, signal, scratch.d_logits.view(), pass);
      if constexpr (LogitsWithLoad<LogitsType>)
        logits.backward(x, tape.layer, scratch.d_logits, signal, dx, grad.logits, scratch.layer, pass);
      else
        moegpt::backward(logits, x, tape.layer, scratch.d_logits, dx, grad.logits, scratch.layer, pass);
    }

   private:
    static constexpr std::string_view path() {
      if constexpr (requires { LogitsType::path(); })
        return LogitsType::path();
      else
        return "gate";
    }
  };
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
