#pragma once
// Two levels of routers (Jordan, Jacobs 1994; Shazeer et al. 2017, appendix B): experts stand in G groups of E. An
// outer router sends a token to groups, and in each of them an inner router of the group's own sends it to experts.
// Either may be of any kind, sparse or dense; dense on dense is the hierarchical mixture of Jordan and Jacobs.
//   gate of expert i of group g:  a_g b_gi       number g E + i
//   its score:                    s_g s_gi       of the two routers' full scores; they sum to 1 as these do
// Tensor2Tensor has noisy top-k at both levels and the CV^2 losses on all G E importances and loads at once: likewise
// here balance losses see the G E counts and scores, and need to know nothing of groups.
#include <moegpt/core/heap_array.hpp>
#include <moegpt/moe/router.hpp>

#include <algorithm>
#include <cmath>

namespace moegpt::inline MOEGPT_BUILD {

template <Router Outer, Router Inner>
struct HierarchicalRouter {
  static_assert(!sets_drop_rule<Outer> && !sets_drop_rule<Inner>,
                "HierarchicalRouter: capacity is the experts', so a drop rule stands around both levels and not "
                "inside: Dropping<HierarchicalRouter<...>, ...>");
  static_assert(Outer::experts >= 1 && Inner::experts >= 1 && Inner::experts <= (1 << 16) / Outer::experts,
                "HierarchicalRouter: at least one and at most 65536 experts in all groups together");
  static constexpr int groups = Outer::experts, group_experts = Inner::experts;
  static constexpr int experts = groups * group_experts, active = Outer::active * Inner::active;
  static constexpr bool causal = Outer::causal && Inner::causal;
  static constexpr bool constant_gate = moegpt::constant_gate<Outer> || moegpt::constant_gate<Inner>;
  static std::string text() requires requires { Outer::text(), Inner::text(); } {
    return "HierarchicalRouter<" + Outer::text() + ", " + Inner::text() + ">";
  }

  template <int D, class T = float>
  struct For {
    using Scalar = T;
    using OuterRouter = typename Outer::template For<D, T>;
    using InnerRouter = typename Inner::template For<D, T>;
    static constexpr int dim = D, G = groups, E = group_experts, Ko = Outer::active, Ki = Inner::active;

    OuterRouter outer;
    HeapArray<InnerRouter, G> inner;

    static constexpr auto fields() { return Fields{Field{"outer", &For::outer}, Field{"inner", &For::inner}}; }
    struct Tape {
      static constexpr bool has_choices = true;
      static constexpr bool has_own_loss =
          HasOwnLoss<typename OuterRouter::Tape> || HasOwnLoss<typename InnerRouter::Tape>;
      T own_loss = 0;                // the sum of those of all routers
      Tokens<experts, T> score;
      Tokens<1, T> lse;              // lse^2 sums the lse^2 of all routers, so that a z-loss is the sum of theirs
      RoutingPlan<T> outer_plan;
      HeapArray<RoutingPlan<T>, G> inner_plan;   // of all tokens, also those that are not sent to the group
      typename OuterRouter::Tape outer;
      HeapArray<typename InnerRouter::Tape, G> inner;
      Buffer<int> outer_choice;      // [tokens, G] which of its choices the group is for the token, or none
      Buffer<int> chosen;            // [tokens, active]
      Buffer<T> gate;                // [tokens, active]
      Buffer<bool> allowed;          // [G] groups in which any expert is
      [[gnu::noinline]] void resize(const Pass& pass) {
        resize_all(pass, score, lse, outer);
        outer_plan.resize(pass.tokens(), Ko, G);
        for (auto& plan : inner_plan) plan.resize(pass.tokens(), Ki, E);
        for (auto& tape : inner) tape.resize(pass);
        outer_choice.resize(pass.tokens() * G);
        chosen.resize(pass.tokens() * active);
        gate.resize(pass.tokens() * active);
        allowed.resize(G);
      }
    };
    struct Scratch {
      typename OuterRouter::Scratch outer;
      typename InnerRouter::Scratch inner;
      Tokens<experts, T> d_score;
      Tokens<G, T> d_outer_score;
      HeapArray<Tokens<E, T>, G> d_inner_score;
      Buffer<T> d_outer_gate;        // [slots of the outer plan]
      HeapArray<Buffer<T>, G> d_inner_gate;
      [[gnu::noinline]] void resize(const Pass& pass) {
        resize_all(pass, outer, inner, d_score, d_outer_score);
        for (auto& d : d_inner_score) d.resize(pass);
        d_outer_gate.resize(pass.tokens() * Ko);
        for (auto& d : d_inner_gate) d.resize(pass.tokens() * Ki);
      }
    };

    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      pass.check_fits(x.count, pass.tokens());
      tape.resize(pass);
      for (int g = 0; g < G; ++g) {
        tape.allowed[g] = false;
        for (int i = 0; i < E && !tape.allowed[g]; ++i) tape.allowed[g] = is_allowed(g * E + i, pass);
      }
      const Levels levels{pass, tape.allowed.data()};
      outer.forward(x, tape.outer_plan, tape.outer, levels.outer().pass);
      for (std::size_t g = 0; g < G; ++g)
        if (levels.allowed[g]) inner[g].forward(x, tape.inner_plan[g], tape.inner[g], levels.inner(g).pass);
      multiply_scores(tape, levels);
      multiply_gates(tape, levels);
      tape.own_loss = 0;
      if constexpr (HasOwnLoss<typename OuterRouter::Tape>) tape.own_loss = tape.outer.own_loss;
      if constexpr (HasOwnLoss<typename InnerRouter::Tape>)
        for (std::size_t g = 0; g < G; ++g)
          if (levels.allowed[g]) tape.own_loss += tape.inner[g].own_loss;
      plan.resize(pass.tokens(), active, experts);
      plan.assign(tape.chosen.data(), tape.gate.data(), pass);
    }

    // da_g = sum_i b_gi d_weight,  db_gi = a_g d_weight;  ds_g = sum_i s_gi ds,  ds_gi = s_g ds. The rest is up to the
    // routers.
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, const RouterSignal<T>& signal,
                  Sum<D, T> dx, For& grad, Scratch& scratch, const Pass& pass) const {
      scratch.resize(pass);
      const Levels levels{pass, tape.allowed.data()};
      const Index routed = routed_tokens(pass);
      for_each_piece(pass.exec, pass.tokens(), token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n) {
          multiply_scores_backward(n, routed, tape, signal, scratch, levels);
          multiply_gates_backward(n, plan, tape, signal.d_weight, scratch, levels);
        }
      });
      RouterSignal<T> part{.d_weight = scratch.d_outer_gate.data(), .z = signal.z,
                           .d_score = scratch.d_outer_score[0], .own = signal.own};
      outer.backward(x, tape.outer_plan, tape.outer, part, dx, grad.outer, scratch.outer, levels.outer().pass);
      for (std::size_t g = 0; g < G; ++g) {
        if (!levels.allowed[g]) continue;
        part.d_weight = scratch.d_inner_gate[g].data();
        part.d_score = scratch.d_inner_score[g][0];
        inner[g].backward(x, tape.inner_plan[g], tape.inner[g], part, dx, grad.inner[g], scratch.inner,
                          levels.inner(g).pass);
      }
    }

   private:
    // The pass as each router sees it: with noise of its own and its part of the experts that are allowed, and without
    // a capacity, which is the experts'.
    struct Level {
      RoutingContext routing;
      Pass pass;
      Level(const Pass& whole, std::size_t number, const bool* allowed) : routing(routing_of(whole)), pass(whole) {
        if (routing.allowed) routing.allowed = allowed;
        pass.routing = &routing;
        pass.options.capacity_factor = pass.options.min_capacity = 0;
        if (pass.key) pass.key = pass.key->with(Purpose::router_noise, number);
      }
      Level(const Level&) = delete;   // its pass points into it
    };
    struct Levels {
      const Pass& pass;
      const bool* allowed;           // [G] of the tape
      Level outer() const { return {pass, 0, allowed}; }
      Level inner(std::size_t g) const {
        const bool* all = routing_of(pass).allowed;
        return {pass, g + 1, all ? all + g * E : nullptr};
      }
    };

    static void multiply_scores(Tape& tape, const Levels& levels) {
      for_each_piece(levels.pass.exec, tape.score.count(), token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n) {
          T squares = *tape.outer.lse[n] * *tape.outer.lse[n];
          for (std::size_t g = 0; g < G; ++g) {
            const bool allowed = levels.allowed[g];
            for (std::size_t i = 0; i < E; ++i)
              tape.score[n][g * E + i] = allowed ? tape.outer.score[n][g] * tape.inner[g].score[n][i] : T(0);
            if (allowed) squares += *tape.inner[g].lse[n] * *tape.inner[g].lse[n];
          }
          *tape.lse[n] = std::sqrt(squares);
        }
      });
    }
    static void multiply_scores_backward(Index n, Index routed, const Tape& tape, const RouterSignal<T>& signal,
                                         Scratch& scratch, const Levels& levels) {
      T* ds = scratch.d_score[n];
      std::fill_n(ds, experts, T(0));
      signal.add_to_scores(n, routed, levels.pass, experts, ds);
      for (std::size_t g = 0; g < G; ++g) {
        T& d_outer = scratch.d_outer_score[n][g] = 0;
        for (std::size_t i = 0; i < E && levels.allowed[g]; ++i) {
          d_outer += ds[g * E + i] * tape.inner[g].score[n][i];
          scratch.d_inner_score[g][n][i] = ds[g * E + i] * tape.outer.score[n][g];
        }
      }
    }

    static void multiply_gates(Tape& tape, const Levels& levels) {
      std::fill_n(tape.outer_choice.data(), tape.outer_choice.size(), RoutingPlan<T>::none);
      std::fill_n(tape.chosen.data(), tape.chosen.size(), RoutingPlan<T>::none);
      const RoutingPlan<T>& outside = tape.outer_plan;
      for (int g = 0; g < G; ++g)
        for (Index s = outside.offset[g]; s < outside.offset[g + 1]; ++s)
          tape.outer_choice[outside.token[s] * G + g] = outside.choice[s];
      levels.pass.exec.parallel_for(G, [&](Index group) {
        const auto g = static_cast<std::size_t>(group);
        const RoutingPlan<T>& inside = tape.inner_plan[g];
        for (int i = 0; i < E && levels.allowed[g]; ++i)
          for (Index s = inside.offset[i]; s < inside.offset[i + 1]; ++s) {
            const Index n = inside.token[s], j = tape.outer_choice[n * G + group];
            if (j < 0) continue;
            const Index pair = n * active + j * Ki + inside.choice[s];
            tape.chosen[pair] = static_cast<int>(group) * E + i;
            tape.gate[pair] = outside.weight[outside.slot[n * Ko + j]] * inside.weight[s];
          }
      });
    }
    static void multiply_gates_backward(Index n, const RoutingPlan<T>& plan, const Tape& tape, const T* d_weight,
                                        Scratch& scratch, const Levels& levels) {
      for (std::size_t g = 0; g < G; ++g) {
        if (!levels.allowed[g]) continue;
        const Index j = tape.outer_choice[n * G + static_cast<Index>(g)];
        const Index outside = j < 0 ? j : tape.outer_plan.slot[n * Ko + j];
        T d_outer = 0;
        for (Index i = 0; i < Ki; ++i) {
          const Index inside = tape.inner_plan[g].slot[n * Ki + i];
          if (inside < 0) continue;
          const Index s = j < 0 ? j : plan.slot[n * active + j * Ki + i];
          const T d = s < 0 ? T(0) : d_weight[s];
          d_outer += d * tape.inner_plan[g].weight[inside];
          scratch.d_inner_gate[g][inside] = s < 0 ? T(0) : d * tape.outer_plan.weight[outside];
        }
        if (j >= 0) scratch.d_outer_gate[outside] = d_outer;
      }
    }
  };
};

}  // namespace moegpt::inline MOEGPT_BUILD
