#pragma once
// A top-2 router with a planted fault, for tests of the checks.
#include "routed_pass.hpp"

#include <moegpt/routing/top_k_router.hpp>

enum class RouterFault {
  none,
  ignores_capacity,
  ignores_allowed,
  routes_padding,
  same_expert_twice,
  slots_disagree,
  offsets_descend,
  too_few_tokens,
  tape_disagrees,
  expert_does_not_exist,
  slots_out_of_order,
  no_expert,
  gate_is_nan,
  scores_forbidden,
  gives_up,
  drops_by_choice,
  capacity_changes_choices,
  stale_memory,
  counts_threads,
  looks_ahead,
  looks_back,
  looks_at_batch_mates,
  noise_by_call,
  feels_padding
};
inline RouterFault router_fault =
    RouterFault::none;  // at run time: one router to compile instead of one for each

struct PlantedRouter {
  static constexpr int experts = 4, active = 2;
  static constexpr bool causal = true;
  static std::string text() { return "PlantedRouter"; }

  template <int D, class T = float>
  struct For : moegpt::TopKRouter<experts, active>::For<D, T> {
    using Base = typename moegpt::TopKRouter<experts, active>::template For<D, T>;
    struct Tape : Base::Tape {
      moegpt::Index most = 0;  // tokens, ever
    };
    void forward(moegpt::In<D, T> x, moegpt::RoutingPlan<T>& plan, Tape& tape,
                 const moegpt::Pass& pass) const {
      RoutedPass seen(pass, routing_of(pass));
      if (router_fault == RouterFault::ignores_capacity || plan.drop.order == moegpt::Drop::never)
        seen.options.capacity_factor = 0;
      if (router_fault == RouterFault::ignores_allowed) seen.context.allowed = nullptr;
      if (router_fault == RouterFault::routes_padding) seen.lengths = nullptr;
      const moegpt::DropRule drop = plan.drop;
      if (router_fault == RouterFault::drops_by_choice) plan.drop.order = moegpt::Drop::slot_major;
      tape.most = std::max(tape.most, pass.tokens());
      Base::forward(distorted(x, tape, pass), plan, tape, seen);
      plan.drop = drop;
      if (spoil_choices(tape, pass)) plan.assign(tape.chosen.data(), tape.gate.data(), pass);
      if (router_fault == RouterFault::slots_disagree) std::swap(plan.token[0], plan.token[1]);
      if (router_fault == RouterFault::slots_out_of_order) {
        std::swap(plan.token[0], plan.token[1]);
        std::swap(plan.choice[0], plan.choice[1]);
        for (const int s : {0, 1}) plan.slot[plan.token[s] * active + plan.choice[s]] = s;
      }
      if (router_fault == RouterFault::offsets_descend) plan.offset[1] = plan.offset[4] + 1;
      if (router_fault == RouterFault::tape_disagrees) tape.chosen[0] = tape.chosen[0] == 0 ? 1 : 0;
      if (router_fault == RouterFault::too_few_tokens) plan.tokens = pass.tokens() - 1;
      for (int e = 0; e < experts && router_fault == RouterFault::scores_forbidden; ++e)
        if (!is_allowed(e, pass)) tape.score[0][e] = T(0.1);
    }

   private:
    // Whether there is anything to assign again.
    static bool spoil_choices(Tape& tape, const moegpt::Pass& pass) {
      int allowed = 0, *chosen = tape.chosen.data();
      for (int e = 0; e < experts; ++e) allowed += is_allowed(e, pass);
      const bool limited = pass.options.capacity_factor > 0;
      for (moegpt::Index pair = 0; pair < pass.tokens() * active; ++pair)
        if (router_fault == RouterFault::no_expert ||
            (router_fault == RouterFault::gives_up && allowed < active) ||
            (router_fault == RouterFault::capacity_changes_choices && limited && pair % active == 1))
          chosen[pair] = moegpt::no_expert;
      if (router_fault == RouterFault::same_expert_twice) chosen[1] = chosen[0];
      if (router_fault == RouterFault::expert_does_not_exist) chosen[1] = experts;
      if (router_fault == RouterFault::gate_is_nan) tape.gate[0] = std::numeric_limits<T>::quiet_NaN();
      return router_fault == RouterFault::no_expert || router_fault == RouterFault::gives_up ||
             router_fault == RouterFault::capacity_changes_choices ||
             router_fault == RouterFault::gate_is_nan || router_fault == RouterFault::same_expert_twice ||
             router_fault == RouterFault::expert_does_not_exist;
    }
    // The input of the router instead of x.
    static moegpt::Tokens<D, T> distorted(moegpt::In<D, T> x, const Tape& tape, const moegpt::Pass& pass) {
      const moegpt::Index N = pass.tokens(), L = pass.shape.length;
      moegpt::Tokens<D, T> y(N);
      for (moegpt::Index n = 0; n < N; ++n) {
        std::copy_n(x[n], D, y[n]);
        const auto add = [&](moegpt::Index other) {
          for (int i = 0; i < D; ++i) y[n][i] += x[other][i];
        };
        if (router_fault == RouterFault::looks_ahead && n % L < L - 1) add(n + 1);
        if (router_fault == RouterFault::looks_back && n % L > 0) add(n - 1);
        if (router_fault == RouterFault::looks_at_batch_mates) add((n + L) % N);
        if (router_fault == RouterFault::noise_by_call && pass.key)
          y[n][0] += static_cast<T>(pass.key->normal(static_cast<std::uint64_t>(n)));
        if ((router_fault == RouterFault::stale_memory && tape.most > N) ||
            (router_fault == RouterFault::counts_threads && pass.exec.threads > 1 && n >= 64) ||
            (router_fault == RouterFault::feels_padding && pass.lengths))
          y[n][0] += 1;
      }
      return y;
    }
  };
};
