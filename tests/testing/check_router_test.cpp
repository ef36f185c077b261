#include <moegpt/moe/dropping.hpp>
#include <moegpt/moe/noisy_top_k_router.hpp>
#include <moegpt/testing/check_router.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/planted_router.hpp"

#include <algorithm>

using namespace moegpt;

namespace {

template <class Recipe = PlantedRouter>
std::string complaint(RouterFault fault, const RouterCheckOptions& options = {}) {
  router_fault = fault;
  const RouterReport report = check_router<Recipe>(options);
  router_fault = RouterFault::none;
  CHECK(report.ok == report.complaint.empty());
  CHECK(static_cast<bool>(report) == report.ok);
  return report.complaint;
}
void says(const std::string& complaint, std::string_view what) {
  CAPTURE(complaint, what);
  CHECK(complaint.find(what) != std::string::npos);
}

// Its router looks ahead or at other tokens, and it says so.
struct LooksAhead : PlantedRouter {
  static constexpr bool causal = false;
};
// Its tokens compete by a rule of its own.
struct Competing : PlantedRouter {
  static constexpr DropRule drop{.order = Drop::never};
};
struct SaysThree : PlantedRouter {
  static constexpr int active = 3;
};
// The load of a tape counts threads.
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

TEST_CASE("check_router accepts a router without faults, also without a key, with one draw and under losses") {
  CHECK(complaint(RouterFault::none).empty());
  CHECK(complaint(RouterFault::none, {.shape = {2, 2}, .seed = 7, .draws = 1}).empty());
  CHECK(complaint<NoisyTopKRouter<4, 2>>(RouterFault::none, {.objective = {.load = 0.1}}).empty());
  CHECK(complaint<Dropping<PlantedRouter, Drop::batch_prioritised, Group::position>>(RouterFault::none).empty());
}

TEST_CASE("check_router names a plan that breaks a promise of every plan") {
  says(complaint(RouterFault::routes_padding), "with padding: padding is routed: token ");
  says(complaint(RouterFault::ignores_allowed), "without some experts: expert ");
  says(complaint(RouterFault::ignores_allowed), " gets tokens, but it is not allowed: choose e only where");
  says(complaint(RouterFault::ignores_capacity), "under a capacity factor of 0.4: capacity is ignored: expert ");
  says(complaint(RouterFault::same_expert_twice), "token 0 chose expert ");
  says(complaint(RouterFault::slots_disagree), "the plan is inconsistent: slot 0 is of token ");
  says(complaint(RouterFault::offsets_descend), "the plan is inconsistent: the slots of expert ");
  says(complaint(RouterFault::too_few_tokens), "the plan is inconsistent: it is for 149 tokens, the pass has 150");
  says(complaint(RouterFault::tape_disagrees), "the tape says that choice 0 of token 0 is expert ");
  says(complaint(RouterFault::slots_out_of_order), "the slots of expert 0 are not in token order: token ");
  says(complaint<SaysThree>(RouterFault::none), "the recipe says active = 3 and experts = 4: call plan.resize");
}

TEST_CASE("check_router names a gate or score without meaning, and a router that chooses nobody") {
  says(complaint(RouterFault::gate_is_nan), "a gate of token 0 is nan, expected a finite number");
  says(complaint(RouterFault::nobody), "no token is sent to any expert");
  says(complaint(RouterFault::gives_up), "with one expert allowed: no token is sent to any expert");
  says(complaint(RouterFault::scores_forbidden), "the score of expert 1, which is not allowed, is 0.1 for token 0");
}

TEST_CASE("check_router names a capacity that drops by another rule, or changes what is chosen") {
  says(complaint(RouterFault::drops_by_choice), " by the drop rule of the recipe: call plan.assign");
  using ByChoice = Dropping<PlantedRouter, Drop::slot_major>;
  CHECK(complaint<ByChoice>(RouterFault::drops_by_choice).empty());
  says(complaint(RouterFault::capacity_changes_choices), " times without: choose without regard to capacity");
}

TEST_CASE("check_router names a route that depends on memory or threads") {
  says(complaint(RouterFault::stale_memory), " in fresh memory, but ");
  says(complaint(RouterFault::counts_threads), " with one thread, but ");
  says(complaint<WrongLoad>(RouterFault::none), "the load of expert 3 is ");
}

TEST_CASE("check_router names a causal route that depends on other tokens, and lets one that is not do so") {
  const std::string ahead = complaint(RouterFault::looks_ahead);
  says(ahead, " if tokens from position 1 on are others: let a route depend on no later token");
  says(ahead, "or say causal = false");
  CHECK(complaint<LooksAhead>(RouterFault::looks_ahead).empty());
  says(complaint(RouterFault::looks_back), " one position at a time: let a route depend on no other token of its");
  CHECK(complaint<LooksAhead>(RouterFault::looks_back).empty());
  says(complaint(RouterFault::looks_at_batch_mates), " in the batch, but ");
  says(complaint(RouterFault::looks_at_batch_mates), " alone: let a route depend on no other token");
  CHECK(complaint<Competing>(RouterFault::looks_at_batch_mates).empty());
  says(complaint<Competing>(RouterFault::looks_ahead), " on are others: let a route depend on no later token");
  says(complaint(RouterFault::feels_padding), " with padding: let no route depend on padding");
}

TEST_CASE("check_router names a causal recipe whose drop rule lets later tokens take the slots of earlier ones") {
  using ByGate = AllowNonCausal<Dropping<PlantedRouter, Drop::probability>>;
  says(complaint<ByGate>(RouterFault::none), "under a capacity factor of 0.4: token ");
  says(complaint<ByGate>(RouterFault::none), " on are others: let a route depend on no later token");
  CHECK(complaint<Dropping<PlantedRouter, Drop::probability>>(RouterFault::none).empty());
}

TEST_CASE("check_router examines a router with a key, too: noise follows the number of a token") {
  const std::string found = complaint(RouterFault::noise_by_call);
  CHECK(found.find("with a key: token ") == 0);
  says(found, "noise on pass.number_of(n)");
}

TEST_CASE("check_router shows all digits of numbers that differ, and the token's place") {
  const std::string found = complaint(RouterFault::counts_threads);
  CHECK(found.find("token 64 (sequence 1, position 14): ") == 0);
}

TEST_CASE("a refusal of the router itself passes through check_router") {
  router_fault = RouterFault::expert_does_not_exist;
  const std::string text = refusal([] { check_router<PlantedRouter>(); });
  router_fault = RouterFault::none;
  says(text, "choice 1 of token 0 is expert 4, expected 0 .. 3");
}

TEST_CASE("check_router refuses options with which it would find nothing") {
  const auto refused = [](const RouterCheckOptions& options) {
    return refusal([&] { check_router<PlantedRouter>(options); });
  };
  says(refused({.shape = {1, 50}}), "shape is 1 x 50: at least 2 sequences of 2 tokens");
  says(refused({.shape = {3, 1}}), "shape is 3 x 1");
  says(refused({.vocab = 1}), "vocab 1, expected");
  says(refused({.draws = 0}), "draws is 0");
  says(refused({.spread = 0}), "spread is 0");
}
