#pragma once
// Expert choice (Zhou et al. 2022): s = softmax(W x) over experts, then each expert takes the C tokens with the
// largest s[:, e], C = tokens * Average / E. The gate is s, not renormalised; a token may have 0 .. E experts;
// the load is balanced by construction. Whether a token is taken depends on later tokens: not causal.
#include <moegpt/kernels/softmax.hpp>
#include <moegpt/layers/linear.hpp>
#include <moegpt/moe/router.hpp>

#include <algorithm>

namespace moegpt::inline MOEGPT_BUILD {

// Average: experts per token on average, which sets the capacity.
template <int E, int Average = 2>
struct ExpertChoiceRouter {
  static constexpr int experts = E, active = E;
  static constexpr bool causal = false, drops = false;
  static std::string text() {
    return "ExpertChoiceRouter<" + std::to_string(E) + ", " + std::to_string(Average) + ">";
  }

  template <int D, class T = float>
  struct For {
    static_assert(Average >= 1 && Average <= E, "ExpertChoiceRouter: Average must lie in 1 .. E");
    using Scalar = T;
    static constexpr int dim = D;

    Linear<D, E, T, false> gate;

    static constexpr auto fields() { return Fields{Field{"gate", &For::gate}}; }
    struct Tape {
      Tokens<E, T> score;       // softmax of the logits over experts
      Tokens<1, T> lse;
      Buffer<Index> order;      // [E, tokens] each expert's tokens, best first up to its capacity
      Buffer<int> chosen;       // [tokens, E] e where expert e took the token
      [[gnu::noinline]] void resize(const Pass& pass) {
        score.resize(pass.tokens());
        lse.resize(pass.tokens());
        order.resize(E * pass.tokens());
        chosen.resize(pass.tokens() * E);
      }
    };
    struct Scratch {
      Tokens<E, T> d_logits;
      void resize(const Pass& pass) { d_logits.resize(pass.tokens()); }
    };

    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      pass.check_fits(x.count, pass.tokens());
      tape.resize(pass);
      gate.forward(x, tape.score, pass);
      for_each_piece(pass.exec, pass.tokens(), token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n) {
          if (pass.allowed)
            for (int e = 0; e < E; ++e)
              if (!pass.allowed[e]) tape.score[n][e] = kernels::minus_infinity<T>;
          *tape.lse[n] = kernels::softmax(tape.score[n], E);
          for (int e = 0; e < E; ++e) tape.chosen[n * E + e] = -1;
        }
      });
      const Index capacity = expert_capacity(1, static_cast<double>(routed_tokens(pass)) * Average, E);
      pass.exec.parallel_for(E, [&](Index e) { take_best(static_cast<int>(e), capacity, tape, pass); });
      plan.resize(pass.tokens(), E, E);
      plan.assign(tape.chosen.data(), tape.score[0], 0);
    }

    // ds = dg for chosen pairs;  dz = s (ds - <ds, s>)
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, const RouterSignal<T>& signal,
                  Out<D, T> dx_sum, For& grad, Scratch& scratch, const Pass& pass) const {
      scratch.resize(pass);
      const Index routed = routed_tokens(pass);
      for_each_piece(pass.exec, pass.tokens(), token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n) {
          T* dz = scratch.d_logits[n];
          T d_score[E];
          for (int e = 0; e < E; ++e) {
            const Index s = plan.slot[n * E + e];
            d_score[e] = s >= 0 ? signal.d_weight[s] : T(0);
            dz[e] = pass.is_padding(n) ? T(0) : 2 * signal.z / static_cast<T>(routed) * *tape.lse[n] * tape.score[n][e];
          }
          signal.add_to_scores(n, routed, pass, E, d_score);
          kernels::softmax_backward(tape.score[n], d_score, dz, E);
        }
      });
      gate.backward_sum(x, scratch.d_logits, dx_sum, grad.gate, pass);
    }

   private:
    // Equal scores: the earlier token.
    static void take_best(int e, Index capacity, Tape& tape, const Pass& pass) {
      if (pass.allowed && !pass.allowed[e]) return;
      Index* order = tape.order.data() + e * pass.tokens();
      Index count = 0;
      for (Index n = 0; n < pass.tokens(); ++n)
        if (!pass.is_padding(n)) order[count++] = n;
      const Index taken = capacity < count ? capacity : count;
      std::partial_sort(order, order + taken, order + count, [&](Index a, Index b) {
        const auto rank = [&](Index n) {   // NaN comes last: the order must be an order
          const T s = tape.score[n][e];
          return s == s ? s : kernels::minus_infinity<T>;
        };
        return rank(a) > rank(b) || (rank(a) == rank(b) && a < b);
      });
      for (Index i = 0; i < taken; ++i) tape.chosen[order[i] * E + e] = e;
    }
  };
};
static_assert(lists_every_field<ExpertChoiceRouter<4>::For<4>>());
static_assert(Router<ExpertChoiceRouter<4>>);

}  // namespace moegpt::inline MOEGPT_BUILD
