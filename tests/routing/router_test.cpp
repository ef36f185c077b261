#include <moegpt/routing/dropping.hpp>
#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/routing/hierarchical_router.hpp>
#include <moegpt/routing/input_jitter.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>
#include <moegpt/moe/projected_mixture.hpp>
#include <moegpt/routing/router.hpp>
#include <moegpt/moe/shared_experts.hpp>
#include <moegpt/moe/with_experts.hpp>
#include <moegpt/routing/router_around.hpp>
#include <moegpt/routing/top_k_router.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/routed_pass.hpp"

using namespace moegpt;

namespace {
template <int D, int Dff, class T>
using Expert4 = Expert<D, Dff, Activation::gelu, T>;

// A router specification without backward.
struct OneWay {
  static constexpr int experts = 3, active = 1;
  static constexpr bool causal = true;
  template <int D, class T>
  struct For : TopKRouter<3, 1>::For<D, T> {
    static constexpr auto fields() { return Fields<>{}; }
    void backward() const {}
  };
};

// Top-2 that records the last pass and the plan's drop policy.
struct Seen {
  Pass pass;
  RoutingContext context;  // a copy, because the pass's context may be a temporary
  DropRule drop;
} forward_saw, backward_saw;
struct Spy {
  static constexpr int experts = 4, active = 2;
  static constexpr bool causal = true;
  static std::string text() { return "Spy"; }
  template <int D, class T = float>
  struct For : TopKRouter<4, 2>::For<D, T> {
    using Base = typename TopKRouter<4, 2>::template For<D, T>;
    void forward(In<D, T> x, RoutingPlan<T>& plan, typename Base::Tape& tape, const Pass& pass) const {
      forward_saw = {pass, routing_of(pass), plan.drop};
      Base::forward(x, plan, tape, pass);
    }
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const typename Base::Tape& tape,
                  const RouterSignal<T>& signal, Sum<D, T> dx, For& grad, typename Base::Scratch& scratch,
                  const Pass& pass) const {
      backward_saw = {pass, routing_of(pass), plan.drop};
      Base::backward(x, plan, tape, signal, dx, grad, scratch, pass);
    }
  };
};
}  // namespace

TEST_CASE("the concept accepts router specifications, and rejects one without backward") {
  STATIC_REQUIRE(Router<TopKRouter<5, 3>>);
  STATIC_REQUIRE(Router<ExpertChoiceRouter<5>>);
  STATIC_REQUIRE_FALSE(Router<OneWay>);
  STATIC_REQUIRE_FALSE(Router<TopKRouter<5, 3>::For<6, float>>);  // a router is not a specification
}

TEST_CASE("a non-causal router has causal = false, except inside AllowNonCausal") {
  STATIC_REQUIRE(TopKRouter<5, 3>::causal);
  STATIC_REQUIRE_FALSE(ExpertChoiceRouter<5>::causal);
  STATIC_REQUIRE(AllowNonCausal<ExpertChoiceRouter<5>>::causal);
}

TEST_CASE("a constant gate is found inside every wrapper, except inside AllowConstantGate") {
  using Constant = TopKRouter<4, 1, TopK{.gates = Gates::renormalised}>;
  STATIC_REQUIRE(constant_gate<Constant>);
  STATIC_REQUIRE(constant_gate<TopKRouterWith<4, 1, RenormalisedGates>>);
  STATIC_REQUIRE(constant_gate<NoisyTopKRouter<4, 1>>);
  STATIC_REQUIRE(constant_gate<InputJitter<Constant>>);
  STATIC_REQUIRE(constant_gate<Masked<Constant>>);
  STATIC_REQUIRE(constant_gate<AllowNonCausal<Dropping<Constant, Drop::probability>>>);
  STATIC_REQUIRE(constant_gate<HierarchicalRouter<TopKRouter<2, 1>, Constant>>);
  STATIC_REQUIRE_FALSE(constant_gate<AllowConstantGate<Constant>>);
  STATIC_REQUIRE_FALSE(constant_gate<Masked<AllowConstantGate<Constant>>>);
  STATIC_REQUIRE_FALSE(constant_gate<TopKRouter<4, 1>>);
  STATIC_REQUIRE_FALSE(constant_gate<TopKRouterWith<4, 2, RenormalisedGates>>);
  STATIC_REQUIRE_FALSE(constant_gate<NoisyTopKRouter<4, 2>>);
}

TEST_CASE("what stands around AllowNonCausal tells that it is there") {
  using Inner = AllowNonCausal<ExpertChoiceRouter<4, 2>>;
  STATIC_REQUIRE(allows_non_causal<Inner>);
  STATIC_REQUIRE(allows_non_causal<RouterAround<Inner>>);  // without a text()
  STATIC_REQUIRE(allows_non_causal<Masked<InputJitter<Inner>, 2>>);
  STATIC_REQUIRE(allows_non_causal<SharedExperts<Inner>>);
  STATIC_REQUIRE(allows_non_causal<WithSharedProjection<Inner, 8>>);
  STATIC_REQUIRE(allows_non_causal<WithExperts<SharedExperts<Inner>, Expert4>>);
  STATIC_REQUIRE(allows_non_causal<HierarchicalRouter<TopKRouter<2, 1>, Inner>>);
  STATIC_REQUIRE_FALSE(allows_non_causal<SharedExperts<TopKRouter<4, 2>>>);
  STATIC_REQUIRE_FALSE(allows_non_causal<HierarchicalRouter<TopKRouter<2, 1>, TopKRouter<3, 1>>>);
  STATIC_REQUIRE_FALSE(allows_non_causal<Dense>);
}

TEMPLATE_TEST_CASE("a wrapper passes the whole pass on to its router", "", AllowNonCausal<Spy>,
                   AllowConstantGate<Spy>, InputJitter<Spy>, (Masked<Spy, 3>),
                   (SharedExperts<Spy, 2, Shared::gated>), (WithSharedProjection<Spy, 5>),
                   (Dropping<Spy, Drop::probability, Group::sequence, Round::up>),
                   (AllowNonCausal<SharedExperts<InputJitter<Masked<Spy, 3>>>>),
                   (InputJitter<Dropping<Masked<Spy, 3>, Drop::probability, Group::sequence, Round::up>>),
                   (SharedExperts<Masked<Dropping<Spy, Drop::probability, Group::sequence, Round::up>, 3>>),
                   (HierarchicalRouter<TopKRouter<2, 1>, Spy>)) {
  using L = MixtureOf<TestType, Expert<6, 5, Activation::gelu, double>>;
  constexpr int E = TestType::experts;
  constexpr bool two_levels = E == 8;
  L layer, grad;
  draw_weights(layer, 1);
  const auto x = random_tokens<6, double>(10, 2), dy = random_tokens<6, double>(10, 3);
  Tokens<6, double> y(10), dx(10);
  typename L::Tape tape;
  typename L::Scratch scratch;
  const Index lengths[2] = {5, 3};
  const bool allowed[8] = {true, false, true, true, true, true, false, true};
  const int ids[10] = {};
  const RoutedPass pass({.shape = {2, 5},
                         .exec = {.threads = 1},
                         .options = {.capacity_factor = 0.9, .min_capacity = 2},
                         .dropout = 0.1,
                         .key = Key{4},
                         .first_position = 3,
                         .first_token = 20,
                         .sequence_stride = 9,
                         .lengths = lengths,
                         .partial = true},
                        {.objective = {.balance = 0.2, .z = 0.3}, .ids = ids, .allowed = allowed, .task = 2});
  forward_saw = backward_saw = {};
  layer.forward(x, y, tape, scratch, pass);
  layer.backward(x, tape, dy, dx, grad, scratch, pass);
  for (const auto& [seen, context, drop] : {forward_saw, backward_saw}) {
    CHECK(seen.shape == pass.shape);
    CHECK(seen.lengths == lengths);
    CHECK(context.ids == ids);
    CHECK(context.task == 2);
    CHECK(seen.partial);
    CHECK(seen.key.has_value());
    CHECK(seen.dropout == 0.1);
    CHECK(seen.first_position == 3);
    CHECK(seen.first_token == 20);
    CHECK(seen.sequence_stride == 9);
    CHECK(context.objective.z == 0.3);
    CHECK(context.allowed == (two_levels ? allowed + 4 : allowed));  // of the second group, which runs last
    CHECK(seen.options.capacity_factor == (two_levels ? 0 : 0.9));   // capacity is the experts'
  }
  if (TestType::text().find("Drop::probability, Group::sequence, Round::up") != std::string::npos) {
    CHECK(forward_saw.drop.order == Drop::probability);
    CHECK(forward_saw.drop.group == Group::sequence);
    CHECK(forward_saw.drop.rounding == Round::up);
  }
}
