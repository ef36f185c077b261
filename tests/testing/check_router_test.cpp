#include <moegpt/routing/dropping.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>
#include <moegpt/testing/check_router.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/planted_router.hpp"

#include <algorithm>

using namespace moegpt;

namespace {

template <class Recipe = PlantedRouter>
std::string message(RouterFault fault, const RouterCheckOptions& options = {}) {
  router_fault = fault;
  const RouterReport report = check_router<Recipe>(options);
  router_fault = RouterFault::none;
  CHECK(report.ok == report.message.empty());
  CHECK(static_cast<bool>(report) == report.ok);
  return report.message;
}
void says(const std::string& message, std::string_view what) {
  CAPTURE(message, what);
  CHECK(message.find(what) != std::string::npos);
}

// A router that is not causal, and is declared so.
struct LooksAhead : PlantedRouter {
  static constexpr bool causal = false;
};
// Its tokens compete by the router's own rule.
struct Competing : PlantedRouter {
  static constexpr DropRule drop{.order = Drop::never};
};
struct SaysThree : PlantedRouter {
  static constexpr int active = 3;
};
// The load on the tape depends on the number of threads.
struct WrongLoad {
  static constexpr int experts = 4, active = 2;
  static constexpr bool causal = true;
  template <int D, class T = float>
  struct For : NoisyTopKRouter<4, 2>::For<D, T> {
    using Base = typename NoisyTopKRouter<4, 2>::template For<D, T>;
    void forward(In<D, T> x, RoutingPlan<T>& plan, typename Base::Tape& tape, const Pass& pass) const {
      Base::forward(x, plan, tape, pass);
      tape.load[3] += static_cast<T>(pass.exec.threads);
    }
  };
};

}  // namespace

TEST_CASE(
    "check_router accepts a router without faults, also without a key, with one draw and under losses") {
  CHECK(message(RouterFault::none).empty());
  CHECK(message(RouterFault::none, {.shape = {2, 2}, .seed = 7, .draws = 1}).empty());
  CHECK(message<NoisyTopKRouter<4, 2>>(RouterFault::none, {.objective = {.load = 0.1}}).empty());
  CHECK(
      message<Dropping<PlantedRouter, Drop::batch_prioritised, Group::position>>(RouterFault::none).empty());
}

TEST_CASE("check_router reports a plan that violates an invariant of plans") {
  says(message(RouterFault::routes_padding), "with padding: padding is routed: token ");
  says(message(RouterFault::ignores_allowed), "without some experts: expert ");
  says(message(RouterFault::ignores_allowed), " gets tokens, but it is not allowed: choose e only where");
  says(message(RouterFault::ignores_capacity),
       "under a capacity factor of 0.4: capacity is ignored: expert ");
  says(message(RouterFault::same_expert_twice), "token 0 chose expert ");
  says(message(RouterFault::slots_disagree), "the plan is inconsistent: slot 0 is of token ");
  says(message(RouterFault::offsets_descend), "the plan is inconsistent: the slots of expert ");
  says(message(RouterFault::too_few_tokens),
       "the plan is inconsistent: it is for 149 tokens, the pass has 150");
  says(message(RouterFault::tape_disagrees), "the tape says that choice 0 of token 0 is expert ");
  says(message(RouterFault::slots_out_of_order), "the slots of expert 0 are not in token order: token ");
  says(message<SaysThree>(RouterFault::none), "the recipe says active = 3 and experts = 4: call plan.resize");
}

TEST_CASE("check_router reports a gate or score that is not finite, and a router that selects no expert") {
  says(message(RouterFault::gate_is_nan), "a gate of token 0 is nan, expected a finite number");
  says(message(RouterFault::no_expert), "no token is sent to any expert");
  says(message(RouterFault::gives_up), "with one expert allowed: no token is sent to any expert");
  says(message(RouterFault::scores_forbidden),
       "the score of expert 1, which is not allowed, is 0.1 for token 0");
}

TEST_CASE("check_router reports a capacity that drops by another policy, or changes selections") {
  says(message(RouterFault::drops_by_choice), " by the drop rule of the recipe: call plan.assign");
  using ByChoice = Dropping<PlantedRouter, Drop::slot_major>;
  CHECK(message<ByChoice>(RouterFault::drops_by_choice).empty());
  says(message(RouterFault::capacity_changes_choices), " times without: choose without regard to capacity");
}

TEST_CASE("check_router reports a route that depends on memory or threads") {
  says(message(RouterFault::stale_memory), " in fresh memory, but ");
  says(message(RouterFault::counts_threads), " with one thread, but ");
  says(message<WrongLoad>(RouterFault::none), "the load of expert 3 is ");
}

TEST_CASE("check_router reports a causal route that depends on other tokens, and accepts a non-causal one") {
  const std::string ahead = message(RouterFault::looks_ahead);
  says(ahead, " if tokens from position 1 on are others: let a route depend on no later token");
  says(ahead, "or say causal = false");
  CHECK(message<LooksAhead>(RouterFault::looks_ahead).empty());
  says(message(RouterFault::looks_back),
       " one position at a time: let a route depend on no other token of its");
  CHECK(message<LooksAhead>(RouterFault::looks_back).empty());
  says(message(RouterFault::looks_at_batch_mates), " in the batch, but ");
  says(message(RouterFault::looks_at_batch_mates), " alone: let a route depend on no other token");
  CHECK(message<Competing>(RouterFault::looks_at_batch_mates).empty());
  says(message<Competing>(RouterFault::looks_ahead), " on are others: let a route depend on no later token");
  says(message(RouterFault::feels_padding), " with padding: let no route depend on padding");
}

TEST_CASE("check_router reports a causal router whose drop policy lets later tokens evict earlier ones") {
  using ByGate = AllowNonCausal<Dropping<PlantedRouter, Drop::probability>>;
  says(message<ByGate>(RouterFault::none), "under a capacity factor of 0.4: token ");
  says(message<ByGate>(RouterFault::none), " on are others: let a route depend on no later token");
  CHECK(message<Dropping<PlantedRouter, Drop::probability>>(RouterFault::none).empty());
}

TEST_CASE("check_router also checks with a key: noise depends on the index of a token") {
  const std::string found = message(RouterFault::noise_by_call);
  CHECK(found.find("with a key: token ") == 0);
  says(found, "noise on pass.number_of(n)");
}

TEST_CASE("check_router prints all digits of differing values, and the token's sequence and position") {
  const std::string found = message(RouterFault::counts_threads);
  CHECK(found.find("token 64 (sequence 1, position 14): ") == 0);
}

TEST_CASE("an exception of the router passes through check_router") {
  router_fault = RouterFault::expert_does_not_exist;
  const std::string text = refusal([] { check_router<PlantedRouter>(); });
  router_fault = RouterFault::none;
  says(text, "choice 1 of token 0 is expert 4, expected 0 .. 3");
}

TEST_CASE("check_router rejects options with which it could not find faults") {
  const auto refused = [](const RouterCheckOptions& options) {
    return refusal([&] { check_router<PlantedRouter>(options); });
  };
  says(refused({.shape = {1, 50}}), "shape is 1 x 50: at least 2 sequences of 2 tokens");
  says(refused({.shape = {3, 1}}), "shape is 3 x 1");
  says(refused({.vocab = 1}), "vocab 1, expected");
  says(refused({.draws = 0}), "draws is 0");
  says(refused({.spread = 0}), "spread is 0");
}
