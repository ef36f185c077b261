#pragma once
// A top-2 router with a planted fault: what a router of one's own may get wrong.
#include "routed_pass.hpp"

#include <moegpt/moe/top_k_router.hpp>

enum class RouterFault {
  none, ignores_capacity, ignores_allowed, routes_padding, same_expert_twice, slots_disagree, offsets_descend,
  too_few_tokens, tape_disagrees, expert_does_not_exist
};
inline RouterFault router_fault = RouterFault::none;   // at run time: one router to compile instead of one for each

struct PlantedRouter {
  static constexpr int experts = 4, active = 2;
  static constexpr bool causal = true;
  static std::string text() { return "PlantedRouter"; }

  template <int D, class T = float>
  struct For : moegpt::TopKRouter<experts, active>::For<D, T> {
    using Base = typename moegpt::TopKRouter<experts, active>::template For<D, T>;
    void forward(moegpt::In<D, T> x, moegpt::RoutingPlan<T>& plan, typename Base::Tape& tape,
                 const moegpt::Pass& pass) const {
      RoutedPass seen(pass, routing_of(pass));
      if (router_fault == RouterFault::ignores_capacity) seen.options.capacity_factor = 0;
      if (router_fault == RouterFault::ignores_allowed) seen.context.allowed = nullptr;
      if (router_fault == RouterFault::routes_padding) seen.lengths = nullptr;
      Base::forward(x, plan, tape, seen);
      int* chosen = tape.chosen.data();
      if (router_fault == RouterFault::same_expert_twice) chosen[1] = chosen[0];
      if (router_fault == RouterFault::expert_does_not_exist) chosen[1] = experts;
      if (router_fault == RouterFault::same_expert_twice || router_fault == RouterFault::expert_does_not_exist)
        plan.assign(chosen, tape.gate.data(), pass);
      if (router_fault == RouterFault::slots_disagree) std::swap(plan.token[0], plan.token[1]);
      if (router_fault == RouterFault::offsets_descend) plan.offset[1] = plan.offset[4] + 1;
      if (router_fault == RouterFault::tape_disagrees) chosen[0] = chosen[0] == 0 ? 1 : 0;
      if (router_fault == RouterFault::too_few_tokens) plan.tokens = pass.tokens() - 1;
    }
  };
};
