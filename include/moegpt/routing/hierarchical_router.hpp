#pragma once
// Hierarchical routing (Jordan, Jacobs 1994; Shazeer et al. 2017, appendix B): G expert groups of E experts.
// An outer router selects groups of a token; the inner router of each selected group selects experts in it.
// Both may be of any kind; AllExperts at both levels is the hierarchical mixture of experts of Jordan and
// Jacobs.
//   index of expert i of group g:   g E + i
//   its gate:                       a_g b_gi     of the outer and the inner gate
//   its score:                      s_g s_gi     of the outer and the inner score; the products sum to 1
// Balance losses read all G E loads and scores, as Tensor2Tensor's CV^2 losses do.
#include <moegpt/core/heap_array.hpp>
#include <moegpt/routing/router.hpp>

#include <algorithm>
#include <cmath>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <Router Outer, Router Inner>
struct HierarchicalRouter {
  static_assert(
      !sets_drop_rule<Outer> && !sets_drop_rule<Inner>,
      "HierarchicalRouter: capacity is the experts', so a drop rule stands around both levels and not "
      "inside: Dropping<HierarchicalRouter<...>, ...>");
  static_assert(Outer::experts >= 1 && Inner::experts >= 1 && Inner::experts <= (1 << 16) / Outer::experts,
                "HierarchicalRouter: at least one and at most 65536 experts in all groups together");
  static constexpr int groups = Outer::experts, group_experts = Inner::experts;
  static constexpr int experts = groups * group_experts, active = Outer::active * Inner::active;
  static constexpr bool causal = Outer::causal && Inner::causal;
  static constexpr bool allows_non_causal =
      moegpt::allows_non_causal<Outer> || moegpt::allows_non_causal<Inner>;
  static constexpr bool constant_gate = moegpt::constant_gate<Outer> || moegpt::constant_gate<Inner>;
  static std::string text()
    requires requires { Outer::text(), Inner::text(); }
  {
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

    static constexpr auto fields() {
      return Fields{Field{"outer", &For::outer}, Field{"inner", &For::inner}};
    }
    static constexpr int no_choice = -1;
    struct Tape {
      static constexpr bool has_choices = true;
      static constexpr bool has_own_loss =
          HasOwnLoss<typename OuterRouter::Tape> || HasOwnLoss<typename InnerRouter::Tape>;
      T own_loss = 0;  // the sum of those of all routers
      Tokens<experts, T> score;
      Tokens<1, T> lse;  // sqrt(sum of the routers' lse^2), so that the z-loss is the sum of theirs
      RoutingPlan<T> outer_plan;
      HeapArray<RoutingPlan<T>, G> inner_plan;  // [G] of all tokens, also those that did not select g
      typename OuterRouter::Tape outer;
      HeapArray<typename InnerRouter::Tape, G> inner;
      Buffer<int> outer_choice;  // [tokens, G] rank of group g among the token's groups, or no_choice
      Buffer<int> chosen;        // [tokens, active]
      Buffer<T> gate;            // [tokens, active]
      Buffer<bool> allowed;      // [G] groups with an allowed expert
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
      Buffer<T> d_outer_gate;                // [slots of outer_plan]
      HeapArray<Buffer<T>, G> d_inner_gate;  // [slots of inner_plan[g]]
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

    // With dg, ds of the products:  da_g = sum_i b_gi dg_gi,  db_gi = a_g dg_gi;
    //                               ds_g = sum_i s_gi ds_gi,  ds_gi = s_g ds_gi
    // Then the backward of each router.
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, const RouterSignal<T>& signal,
                  Sum<D, T> dx, For& grad, Scratch& scratch, const Pass& pass) const {
      scratch.resize(pass);
      const Levels levels{pass, tape.allowed.data()};
      const Index routed = routed_tokens(pass);
      for_each_piece(pass.exec, pass.tokens(), token_piece, [&](Rows rows) {
        for (Index n = rows.first; n < rows.first + rows.count; ++n) {
          multiply_scores_backward(n, routed, tape, signal, scratch, levels);
          multiply_gates_backward(n, plan, tape, signal.d_gate, scratch, levels);
        }
      });
      RouterSignal<T> part{.d_gate = scratch.d_outer_gate.data(),
                           .z = signal.z,
                           .d_score = scratch.d_outer_score[0],
                           .own = signal.own};
      outer.backward(x, tape.outer_plan, tape.outer, part, dx, grad.outer, scratch.outer,
                     levels.outer().pass);
      for (std::size_t g = 0; g < G; ++g) {
        if (!levels.allowed[g]) continue;
        part.d_gate = scratch.d_inner_gate[g].data();
        part.d_score = scratch.d_inner_score[g][0];
        inner[g].backward(x, tape.inner_plan[g], tape.inner[g], part, dx, grad.inner[g], scratch.inner,
                          levels.inner(g).pass);
      }
    }

   private:
    // The pass of one router: its own noise, its part of the allowed experts, and no capacity, which applies
    // to the combined plan only.
    struct Level {
      RoutingContext routing;
      Pass pass;
      Level(const Pass& whole, std::size_t index, const bool* allowed)
          : routing(routing_of(whole)), pass(whole) {
        if (routing.allowed) routing.allowed = allowed, routing.allowed_stride = 0;
        pass.routing = &routing;
        pass.options.capacity_factor = pass.options.min_capacity = 0;
        if (pass.key) pass.key = pass.key->with(Purpose::router_noise, index);
      }
      Level(const Level&) = delete;  // pass.routing points to this->routing
    };
    struct Levels {
      const Pass& pass;
      const bool* allowed;  // [G] of the tape
      Level outer() const { return {pass, 0, allowed}; }
      Level inner(std::size_t g) const {
        const bool* all = allowed_experts(pass);
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
    static void multiply_scores_backward(Index n, Index routed, const Tape& tape,
                                         const RouterSignal<T>& signal, Scratch& scratch,
                                         const Levels& levels) {
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
      std::fill_n(tape.outer_choice.data(), tape.outer_choice.size(), no_choice);
      std::fill_n(tape.chosen.data(), tape.chosen.size(), no_expert);
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
            if (j == no_choice) continue;
            const Index pair = n * active + j * Ki + inside.choice[s];
            tape.chosen[pair] = static_cast<int>(group) * E + i;
            tape.gate[pair] = outside.gate[outside.slot[n * Ko + j]] * inside.gate[s];
          }
      });
    }
    static void multiply_gates_backward(Index n, const RoutingPlan<T>& plan, const Tape& tape,
                                        const T* d_gate, Scratch& scratch, const Levels& levels) {
      for (std::size_t g = 0; g < G; ++g) {
        if (!levels.allowed[g]) continue;
        const Index j = tape.outer_choice[n * G + static_cast<Index>(g)];
        const Index outside = j == no_choice ? no_slot : tape.outer_plan.slot[n * Ko + j];
        T d_outer = 0;
        for (Index i = 0; i < Ki; ++i) {
          const Index inside = tape.inner_plan[g].slot[n * Ki + i];
          if (inside == no_slot) continue;
          const Index s = j == no_choice ? no_slot : plan.slot[n * active + j * Ki + i];
          const T d = s == no_slot ? T(0) : d_gate[s];
          d_outer += d * tape.inner_plan[g].gate[inside];
          scratch.d_inner_gate[g][inside] = s == no_slot ? T(0) : d * tape.outer_plan.gate[outside];
        }
        if (j != no_choice) scratch.d_outer_gate[outside] = d_outer;
      }
    }
  };
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
