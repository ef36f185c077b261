#include <moegpt/routing/dropping.hpp>
#include <moegpt/moe/moe_layer.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"
#include "support/rules.hpp"

using namespace moegpt;

namespace {

template <int E, int K, Drop Order, Group Among = Group::batch>
using Mixture = MoELayer<Dropping<TopKRouter<E, K>, Order, Among>, Expert<6, 7, Activation::gelu, double>>;

using FourOrders =
    std::tuple<Mixture<5, 2, Drop::token_order, Group::sequence>, Mixture<5, 2, Drop::slot_major>,
               Mixture<5, 2, Drop::batch_prioritised>, Mixture<5, 2, Drop::probability>>;

template <class Layer>
struct Run {
  Layer layer;
  Tokens<6, double> y;
  typename Layer::Tape tape;
  typename Layer::Scratch scratch;
  Run(const Pass& pass, std::uint64_t seed) : y(pass.tokens()) {
    draw_weights(layer, seed);
    layer.forward(random_tokens<6, double>(pass.tokens(), seed + 1), y, tape, scratch, pass);
  }
};

template <Drop Order, Group Among = Group::batch>
void require_gradients() {
  GradcheckOptions options;
  options.pass.shape = {2, 7};
  const Index lengths[2] = {7, 4};
  for (const double factor : {0.0, 0.4, 1.0}) {  // 0.4: experts with one or two tokens
    options.pass.options = {.capacity_factor = factor, .min_capacity = 1};
    options.routing.objective = {.balance = 0.5, .z = 0.3};
    gradcheck_three_seeds<Dropping<TopKRouter<5, 2>, Order, Among>>(options);
    gradcheck_three_seeds<Mixture<5, 1, Order, Among>>(options);
    gradcheck_three_seeds<Mixture<6, 2, Order, Among>>(options);
    options.pass.lengths = lengths;
    gradcheck_three_seeds<Mixture<8, 3, Order, Among>>(options);
    options.pass.lengths = nullptr;
  }
}

}  // namespace

TEST_CASE("the gradients of a mixture agree with differences under every drop policy") {
  require_gradients<Drop::token_order, Group::sequence>();
  require_gradients<Drop::slot_major>();
  require_gradients<Drop::batch_prioritised>();
  require_gradients<Drop::probability, Group::position>();
}

TEST_CASE("a drop policy is causal in token order or by position, if its router is") {
  using Top = TopKRouter<4, 2>;
  STATIC_REQUIRE(Router<Dropping<Top, Drop::slot_major>>);
  STATIC_REQUIRE(Dropping<Top, Drop::token_order>::causal);
  STATIC_REQUIRE(Dropping<Top, Drop::token_order, Group::sequence>::causal);
  STATIC_REQUIRE(Dropping<Top, Drop::probability, Group::position>::causal);
  STATIC_REQUIRE_FALSE(Dropping<Top, Drop::slot_major>::causal);
  STATIC_REQUIRE_FALSE(Dropping<Top, Drop::batch_prioritised, Group::sequence>::causal);
  STATIC_REQUIRE_FALSE(Dropping<Top, Drop::probability>::causal);
  STATIC_REQUIRE(AllowNonCausal<Dropping<Top, Drop::probability>>::causal);
}

TEST_CASE("the text of a drop policy is the type one writes") {
  using Top = TopKRouter<4, 2>;
  CHECK(Dropping<Top, Drop::slot_major>::text() == "Dropping<TopKRouter<4, 2>, Drop::slot_major>");
  CHECK(Dropping<Top, Drop::token_order, Group::sequence>::text() ==
        "Dropping<TopKRouter<4, 2>, Drop::token_order, Group::sequence>");
  CHECK(AllowNonCausal<Dropping<Top, Drop::probability, Group::batch, Round::up>>::text() ==
        "AllowNonCausal<Dropping<TopKRouter<4, 2>, Drop::probability, Group::batch, Round::up>>");
  CHECK(Dropping<Top, Drop::batch_prioritised, Group::position>::text() ==
        "Dropping<TopKRouter<4, 2>, Drop::batch_prioritised, Group::position>");
}

TEMPLATE_LIST_TEST_CASE("without a factor or with capacity for all, a drop policy changes no bit", "",
                        FourOrders) {
  Pass pass{.shape = {2, 7}};
  using Plain = MoELayer<TopKRouter<5, 2>, Expert<6, 7, Activation::gelu, double>>;
  const Run<Plain> plain(pass, 1);
  const Run<TestType> free(pass, 1);
  pass.options.capacity_factor = 2.5;  // E / K
  const Run<TestType> roomy(pass, 1);
  CHECK(same_bits(plain.y, free.y));
  CHECK(same_bits(plain.y, roomy.y));
  CHECK(roomy.tape.plan.dropped() == 0);
}

TEMPLATE_LIST_TEST_CASE("a token whose pairs are all dropped has output zero, and dropped pairs are counted",
                        "", FourOrders) {
  const Pass pass{.shape = {2, 20}, .options = {.capacity_factor = 0.25}};
  const Run<TestType> run(pass, 3);
  const auto& plan = run.tape.plan;
  Index kept = 0, without = 0;
  for (Index n = 0; n < 40; ++n) {
    const int mine = (plan.slot[2 * n] != no_slot) + (plan.slot[2 * n + 1] != no_slot);
    kept += mine;
    without += mine == 0;
    for (int i = 0; i < 6; ++i) CHECK((run.y[n][i] == 0) == (mine == 0));
  }
  CHECK(without > 0);
  CHECK(plan.dropped() == 80 - kept);
  CHECK(plan.dropped() > 0);
}

TEMPLATE_LIST_TEST_CASE("the number of threads changes no bit under a drop policy", "", FourOrders) {
  Pass pass{.shape = {3, 67}, .options = {.capacity_factor = 0.6}};
  const Run<TestType> one(pass, 5);
  for (const int threads : {2, 8}) {
    pass.exec.threads = threads;
    const Run<TestType> many(pass, 5);
    CHECK(same_bits(one.y, many.y));
    CHECK(same_bits(one.tape.plan.slot, many.tape.plan.slot));
  }
}

TEST_CASE("a wrapped router keeps its weights' names and its noise") {
  using Plain = NoisyTopKRouter<4, 2>::For<6, double>;
  using Recipe = Dropping<NoisyTopKRouter<4, 2>, Drop::slot_major>;
  using Wrapped = Recipe::For<6, double>;
  Plain plain;
  Wrapped wrapped;
  draw_weights(plain, 1);
  draw_weights(wrapped, 1);
  std::string names, wrapped_names;
  for_each_named_weight([&](const std::string& path, Kind, const auto&) { names += path + " "; }, plain);
  for_each_named_weight([&](const std::string& path, Kind, const auto&) { wrapped_names += path + " "; },
                        wrapped);
  CHECK(names == wrapped_names);
  CHECK(names == "gate.weight noise.weight ");
  const auto x = random_tokens<6, double>(9, 2);
  RoutingPlan<double> plan, wrapped_plan;
  wrapped_plan.drop = drop_rule_of<Recipe>();
  Plain::Tape tape;
  Wrapped::Tape wrapped_tape;
  const Pass pass{.shape = {1, 9}, .key = Key{3}};
  plain.forward(x, plan, tape, pass);
  wrapped.forward(x, wrapped_plan, wrapped_tape, pass);
  CHECK(same_bits(plan.slot, wrapped_plan.slot));
  CHECK(same_bits(tape.score, wrapped_tape.score));
}

TEST_CASE("a capacity below one slot is rejected for a batch, and not for one token of a generation") {
  using Layer = Mixture<8, 1, Drop::slot_major>;
  Pass pass{.shape = {1, 4}, .options = {.capacity_factor = 1}};
  const std::string text = refusal([&] { Run<Layer>(pass, 1); });
  CHECK(text.find("capacity_factor 1 gives an expert 0.5 slots") != std::string::npos);
  pass.options.min_capacity = 1;
  CHECK_NOTHROW(Run<Layer>(pass, 1));
  pass.options.min_capacity = 0;
  pass.partial = true;
  CHECK(Run<Layer>(pass, 1).tape.plan.slot_count() > 0);
}

TEST_CASE("a router with any drop policy passes check_router") {
  check_rule<Dropping<TopKRouter<8, 3>, Drop::token_order, Group::sequence>>();
  check_rule<Dropping<TopKRouter<8, 3>, Drop::slot_major, Group::batch, Round::up>>();
  check_rule<Dropping<TopKRouter<8, 3>, Drop::probability>>();
  check_rule<Dropping<NoisyTopKRouter<8, 3>, Drop::batch_prioritised, Group::position>>();
}
