#pragma once
// Expert choice (Zhou et al. 2022): s = softmax(W x) over experts; each expert selects the C tokens of a
// capacity group with the largest s[:, e], C = tokens * Average / E. Gates are s, not renormalised. A token
// has 0 .. E experts; expert loads are equal. Selection depends on later tokens, so it is non-causal, except
// with Group::position.
#include <moegpt/kernels/softmax.hpp>
#include <moegpt/layers/linear.hpp>
#include <moegpt/routing/router.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct ExpertChoice {
  Group group = Group::batch;  // capacity group; position: causal, and the same in generation of that batch
  bool thresholds = false;     // without a key, select by thresholds: see ThresholdExpertChoice
};

// Average: mean number of experts per token, which sets the capacity C. std::invalid_argument in forward if a
// group has fewer than E / Average tokens (check_capacity), unless min_capacity is at least 1.
template <int E, int Average = 2, ExpertChoice Options = ExpertChoice{}>
struct ExpertChoiceRouter {
  static constexpr int experts = E, active = E;
  static constexpr bool causal = Options.group == Group::position;
  static constexpr DropRule drop{.order = Drop::never};  // capacity C instead
  // E C per group; with thresholds an expert may select all tokens.
  static Index max_slots(const Pass& pass) {
    if (Options.thresholds || pass.tokens() == 0) return pass.tokens() * E;
    const Groups groups{Options.group, pass.shape};
    return E * groups.size() *
           capacity_of(groups[0].count, Average, 1, E, Round::down, pass.options.min_capacity);
  }
  static std::string text() {
    constexpr const char* others[] = {"", ", ExpertChoice{.group = Group::sequence}",
                                      ", ExpertChoice{.group = Group::position}"};
    return "ExpertChoiceRouter<" + std::to_string(E) + ", " + std::to_string(Average) +
           (Options.thresholds ? ", ExpertChoice{.thresholds = true}"
                               : others[static_cast<int>(Options.group)]) +
           ">";
  }

  template <int D, class T = float>
  struct For {
    static_assert(Average >= 1 && Average <= E, "ExpertChoiceRouter: Average must lie in 1 .. E");
    static_assert(E <= 1 << 16, "ExpertChoiceRouter: at most 65536 experts");
    static_assert(!Options.thresholds || Options.group == Group::batch,
                  "ExpertChoiceRouter: thresholds are learned from whole batches: use Group::batch");
    using Scalar = T;
    static constexpr int dim = D;

    Linear<D, E, T, false> logits;
    // Updated by update_thresholds; no gradient.
    [[no_unique_address]] Weight<T, Options.thresholds ? E : 0> threshold;

    static constexpr auto fields() {
      return Fields{Field{"gate", &For::logits}, Field{"threshold", &For::threshold, Kind::buffer}};
    }
    struct Tape {
      static constexpr bool has_choices = true;
      Tokens<E, T> score;  // softmax of the logits over experts
      Tokens<1, T> lse;
      Buffer<Index> order;  // [E, tokens] tokens by group, those of the largest scores first, up to C
      Buffer<int> chosen;   // [tokens, E] e if expert e selected the token, else no_expert
      [[gnu::noinline]] void resize(const Pass& pass) {
        resize_all(pass, score, lse);
        order.resize(E * pass.tokens());
        chosen.resize(pass.tokens() * E);
      }
    };
    struct Scratch {
      Tokens<E, T> d_logits, d_score;
      void resize(const Pass& pass) { resize_all(pass, d_logits, d_score); }
    };

    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      pass.check_fits(x.count, pass.tokens());
      tape.resize(pass);
      logits.forward(x, tape.score, pass);
      for_each_piece(pass.exec, pass.tokens(), token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n) {
          if (const bool* allowed = allowed_experts(pass))
            for (int e = 0; e < E; ++e)
              if (!allowed[e]) tape.score[n][e] = kernels::minus_infinity<T>;
          *tape.lse[n] = kernels::softmax(tape.score[n], E);
          for (int e = 0; e < E; ++e) tape.chosen[n * E + e] = by_threshold(e, n, tape, pass) ? e : no_expert;
        }
      });
      if (!Options.thresholds || pass.key) {
        check_capacity("ExpertChoiceRouter's Average", Average, {.group = Options.group}, 1, E, pass);
        const Groups groups{Options.group, pass.shape};
        pass.exec.parallel_for(E * groups.size(), [&](Index i) {
          select_tokens(static_cast<int>(i / groups.size()), i % groups.size(), groups, tape, pass);
        });
      }
      plan.resize(pass.tokens(), E, E);
      plan.assign(tape.chosen.data(), tape.score[0], 0);
    }

    // ds = dg for selected pairs, else 0;  dz = s (ds - <ds, s>) + 2 z / N lse s
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, const RouterSignal<T>& signal,
                  Sum<D, T> dx, For& grad, Scratch& scratch, const Pass& pass) const {
      scratch.resize(pass);
      const Index routed = routed_tokens(pass);
      for_each_piece(pass.exec, pass.tokens(), token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n) {
          T *dz = scratch.d_logits[n], *d_score = scratch.d_score[n];
          for (int e = 0; e < E; ++e) {
            const Index s = plan.slot[n * E + e];
            d_score[e] = s != no_slot ? signal.d_gate[s] : T(0);
            dz[e] = pass.is_padding(n)
                        ? T(0)
                        : 2 * signal.z / static_cast<T>(routed) * *tape.lse[n] * tape.score[n][e];
          }
          signal.add_to_scores(n, routed, pass, E, d_score);
          kernels::softmax_backward(tape.score[n], d_score, dz, E);
        }
      });
      logits.backward(x, scratch.d_logits, dx, grad.logits, pass);
    }

   private:
    bool by_threshold(int e, Index n, const Tape& tape, const Pass& pass) const {
      return Options.thresholds && !pass.key && !pass.is_padding(n) && is_allowed(e, pass) &&
             tape.score[n][e] >= threshold[e];
    }
    // Ties: the earlier token first.
    static void select_tokens(int e, Index g, const Groups& groups, Tape& tape, const Pass& pass) {
      if (!is_allowed(e, pass)) return;
      const TokenGroup group = groups[g];
      Index* order = tape.order.data() + e * pass.tokens() + g * group.count;
      Index count = 0;
      for (Index i = 0; i < group.count; ++i)
        if (!pass.is_padding(group[i])) order[count++] = group[i];
      const Index capacity = capacity_of(count, Average, 1, E, Round::down, pass.options.min_capacity);
      sort_descending(order, capacity, count, [&](Index n) { return tape.score[n][e]; });
      for (Index i = 0; i < capacity; ++i) tape.chosen[order[i] * E + e] = e;
    }
  };
};
static_assert(lists_every_field<ExpertChoiceRouter<4>::For<4>>());
static_assert(Router<ExpertChoiceRouter<4>>);

// With a key (training): expert choice over the batch. Without (evaluation, generation): expert e selects a
// token if s_e >= threshold_e, a running mean of the smallest score that e selected in training
// (update_thresholds). Evaluation is causal, training is not, so a decoder needs AllowNonCausal<...>.
// Thresholds start at 0: all experts select all tokens.
template <int E, int Average = 2>
using ThresholdExpertChoice = ExpertChoiceRouter<E, Average, ExpertChoice{.thresholds = true}>;

// threshold += rate (enough - threshold); the first time, threshold = enough.
template <class T>
void move_threshold(T& threshold, T enough, double rate) {
  threshold = threshold == 0 ? enough : threshold + static_cast<T>(rate) * (enough - threshold);
}

// threshold_e += rate (smallest score that expert e selected - threshold_e), or that score the first time.
// Call it after a forward with a key. std::invalid_argument for a rate outside (0, 1] and for a plan of
// another router.
template <class Router, class T>
void update_thresholds(Router& router, const RoutingPlan<T>& plan, double rate) {
  check(rate > 0 && rate <= 1, "update_thresholds: the rate is ", rate, ", but must lie in (0, 1]");
  check(router.threshold.size() == plan.experts, "update_thresholds: the router has ",
        router.threshold.size(), " thresholds, the plan ", plan.experts, " experts");
  for (int e = 0; e < plan.experts; ++e) {
    if (plan.load(e) == 0) continue;
    const T* gate = plan.gate.data();
    const T enough = *std::min_element(gate + plan.offset[e], gate + plan.offset[e + 1]);
    move_threshold(router.threshold[e], enough, rate);
  }
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
