#include <moegpt/routing/dropping.hpp>
#include <moegpt/routing/router_around.hpp>
#include <moegpt/routing/top_k_router.hpp>
#include <moegpt/testing/check_router.hpp>
#include <moegpt/testing/gradcheck.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

using Inside = Dropping<TopKRouter<5, 2>, Drop::slot_major>;
using Around = RouterAround<Inside>;

// Halves every gate, and has another text.
struct Halved : RouterAround<TopKRouter<5, 2>> {
  static std::string text() { return "Halved"; }
  template <int D, class T = float>
  struct For : RouterAround<TopKRouter<5, 2>>::For<D, T> {
    using Base = typename RouterAround<TopKRouter<5, 2>>::template For<D, T>;
    using typename Base::Scratch;
    using typename Base::Tape;
    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      Base::forward(x, plan, tape, pass);
      for (Index s = 0; s < plan.slot_count(); ++s) plan.gate[s] /= 2;
    }
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, const RouterSignal<T>& signal,
                  Sum<D, T> dx, For& grad, Scratch& scratch, const Pass& pass) const {
      std::vector<T> d_gate(signal.d_gate, signal.d_gate + plan.slot_count());
      for (T& d : d_gate) d /= 2;
      RouterSignal<T> halved = signal;
      halved.d_gate = d_gate.data();
      Base::backward(x, plan, tape, halved, dx, grad, scratch, pass);
    }
  };
};

}  // namespace

TEST_CASE("a router around another passes on its constants, drop rule and paths, but not its text") {
  STATIC_REQUIRE(Router<Around>);
  STATIC_REQUIRE(Around::experts == 5);
  STATIC_REQUIRE(Around::active == 2);
  STATIC_REQUIRE(Around::causal == Inside::causal);
  STATIC_REQUIRE(drop_rule_of<Around>().order == Drop::slot_major);
  CHECK(router_text<Around>() == "your router");
  CHECK(router_text<Halved>() == "Halved");
  std::string inside, around;
  Inside::For<6> router;
  Around::For<6> wrapper;
  for_each_named_weight([&](const std::string& path, Kind, auto&) { inside += path + " "; }, router);
  for_each_named_weight([&](const std::string& path, Kind, auto&) { around += path + " "; }, wrapper);
  CHECK(around == inside);
}

TEST_CASE("a router around another that changes nothing has the bits of its plan and gradients") {
  using R = Inside::For<6>;
  using W = Around::For<6>;
  R router, grad;
  W wrapper, wrapper_grad;
  draw_weights(router, 3);
  wrapper.inner = router;
  const auto x = random_tokens<6, float>(14, 4);
  const Index lengths[2] = {7, 4};
  const Pass pass{.shape = {2, 7}, .options = {.capacity_factor = 0.8}, .lengths = lengths, .partial = true};
  RoutingPlan<float> plan, wrapper_plan;
  plan.drop = wrapper_plan.drop = Inside::drop;
  R::Tape tape;
  W::Tape wrapper_tape;
  router.forward(x, plan, tape, pass);
  wrapper.forward(x, wrapper_plan, wrapper_tape, pass);
  REQUIRE(plan.dropped() > 0);
  REQUIRE(wrapper_plan.slot_count() == plan.slot_count());
  CHECK(same_bits(wrapper_plan.gate.data(), plan.gate.data(), plan.slot_count()));

  const std::vector<float> d_gate(static_cast<std::size_t>(plan.slot_count()), 0.5f);
  R::Scratch scratch;
  W::Scratch wrapper_scratch;
  Tokens<6, float> dx(14), wrapper_dx(14);
  router.backward(x, plan, tape, {.d_gate = d_gate.data()}, Sum(dx), grad, scratch, pass);
  wrapper.backward(x, wrapper_plan, wrapper_tape, {.d_gate = d_gate.data()}, Sum(wrapper_dx), wrapper_grad,
                   wrapper_scratch, pass);
  CHECK(same_bits(dx, wrapper_dx));
  CHECK(same_weights(grad, wrapper_grad.inner));
}

TEST_CASE("a wrapper that changes gates passes both checks") {
  CHECK(gradcheck<Halved>().message == "");
  CHECK(check_router<Halved>().message == "");
}
