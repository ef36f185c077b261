#include <moegpt/routing/allowed_experts.hpp>
#include <moegpt/routing/dropping.hpp>
#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/moe/feed_forward.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/moe/moe_layer.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"
#include "support/planted_router.hpp"
#include "support/routed_pass.hpp"

using namespace moegpt;

namespace {

using Small = Expert<6, 5, Activation::gelu, double>;
using Two = MoELayer<TopKRouter<5, 2>, Small>;
using Switch = MoELayer<TopKRouter<5, 1>, Small>;
using Noisy = MoELayer<NoisyTopKRouter<5, 2, NoisyTopK{.bias = true}>, Small>;
using ByExperts = MoELayer<ExpertChoiceRouter<5, 2>, Small>;
using Gated = MoELayer<TopKRouter<5, 3>, GatedExpert<6, 5, Activation::silu, double>>;

template <class L>
struct Run {
  using T = typename L::Scalar;
  Tokens<6, T> y;
  typename L::Tape tape;
  typename L::Scratch scratch;
  Run(const L& layer, In<6, T> x, const Pass& pass) : y(pass.tokens()) {
    y.memory().fill(99);
    layer.forward(x, y, tape, scratch, pass);
  }
};
template <class L>
struct Back {
  using T = typename L::Scalar;
  L grad;
  Tokens<6, T> dx;
  Back(const L& layer, Run<L>& run, In<6, T> x, In<6, T> dy, const Pass& pass) : dx(pass.tokens()) {
    layer.backward(x, run.tape, dy, dx, grad, run.scratch, pass);
  }
};
template <class L>
L drawn(std::uint64_t seed) {
  L layer;
  draw_weights(layer, seed);
  return layer;
}
const Pass seven{.shape = {1, 7}};

}  // namespace

TEST_CASE("the gradients of a mixture agree with differences for every router") {
  SECTION("top-2") { gradcheck_three_seeds<Two>(); }
  SECTION("top-1 with its probability") { gradcheck_three_seeds<Switch>(); }
  SECTION("top-3 of gated experts") { gradcheck_three_seeds<Gated>(); }
  SECTION("noisy top-2 without noise") { gradcheck_three_seeds<Noisy>(); }
  SECTION("expert choice") { gradcheck_three_seeds<ByExperts>(); }
}

TEST_CASE("the gradients of a mixture agree with differences with all options") {
  const Index lengths[2] = {5, 3};
  const bool allowed[5] = {true, true, false, true, true}, one[5] = {false, false, false, true, false};
  GradcheckOptions options;
  SECTION("balance loss and z-loss") { options.routing.objective = {.balance = 0.5, .z = 0.3}; }
  SECTION("dropout and noise") {
    options.pass.dropout = 0.3;
    options.pass.key = Key{3};
  }
  SECTION("an expert with one token at most") {
    options.pass.options = {.capacity_factor = 0.3, .min_capacity = 1};
  }
  SECTION("padding") { options.pass.lengths = lengths; }
  SECTION("an idle expert") { options.routing.allowed = allowed; }
  SECTION("one expert for all") { options.routing.allowed = one; }
  SECTION("a single token") {
    options.pass.shape = {1, 1};
    options.pass.options.min_capacity = 1;  // in expert choice the capacity would be 2/5 of a slot
  }
  SECTION("all of it") {
    options.pass.dropout = 0.3;
    options.routing.objective = {.balance = 0.5, .z = 0.3};
    options.pass.key = Key{4};
    options.pass.options.capacity_factor = 0.8;
    options.pass.lengths = lengths;
    options.routing.allowed = allowed;
  }
  gradcheck_three_seeds<Two>(options);
  gradcheck_three_seeds<Switch>(options);
  gradcheck_three_seeds<Noisy>(options);
  gradcheck_three_seeds<ByExperts>(options);
}

TEST_CASE("top-k of all experts with probability gates is dense MoE") {
  using Dense = MoELayer<TopKRouter<3, 3, TopK{.gates = Gates::probability}>, Small>;
  const auto layer = drawn<Dense>(1);
  const auto x = random_tokens<6, double>(7, 2);
  const Run<Dense> run(layer, x, seven);
  Tokens<6, double> expected(7), output(7);
  Small::Tape tape;
  Small::Scratch scratch;
  tape.resize(7);
  scratch.resize(7);
  Tokens<3, double> z(7);
  layer.router.logits.forward(x, z, seven);
  for (int e = 0; e < 3; ++e) {
    layer.experts[static_cast<std::size_t>(e)].forward(x, output, tape, scratch, {0, 7});
    for (Index n = 0; n < 7; ++n) {
      const double gate = std::exp(z[n][e]) / (std::exp(z[n][0]) + std::exp(z[n][1]) + std::exp(z[n][2]));
      for (int i = 0; i < 6; ++i) expected[n][i] += gate * output[n][i];
    }
  }
  CHECK(distance(run.y, expected) < 1e-14);  // sums of order one in another order
}

TEST_CASE("one expert for every token is the dense feed-forward layer, bit for bit") {
  using One = MoELayer<TopKRouter<1, 1>, Small>;
  const auto layer = drawn<One>(3);
  FeedForward<Small> dense;
  dense.network = layer.experts[0];
  const auto x = random_tokens<6, double>(7, 4), dy = random_tokens<6, double>(7, 5);
  Run<One> run(layer, x, seven);
  FeedForward<Small> grad;
  FeedForward<Small>::Tape tape;
  FeedForward<Small>::Scratch scratch;
  Tokens<6, double> y(7), dx(7);
  dense.forward(x, y, tape, scratch, seven);
  dense.backward(x, tape, dy, dx, grad, scratch, seven);
  CHECK(same_bits(run.y, y));
  const Back<One> back(layer, run, x, dy, seven);
  CHECK(same_bits(back.dx, dx));
  CHECK(same_weights(back.grad.experts[0], grad.network));
}

TEST_CASE("equal experts with gates that sum to one are one expert") {
  auto layer = drawn<Two>(6);
  for (auto& expert : layer.experts) expert = layer.experts[0];
  const auto x = random_tokens<6, double>(7, 7);
  const Run<Two> run(layer, x, seven);
  Tokens<6, double> y(7);
  Small::Tape tape;
  Small::Scratch scratch;
  tape.resize(7);
  scratch.resize(7);
  layer.experts[0].forward(x, y, tape, scratch, {0, 7});
  CHECK(distance(run.y, y) < 1e-14);  // the gates' sum is rounded
}

TEST_CASE("a permutation of experts with their router rows gives the same output") {
  const auto layer = drawn<Two>(8);
  auto permuted = layer;
  const int order[5] = {3, 0, 4, 1, 2};
  for (int e = 0; e < 5; ++e) {
    permuted.experts[static_cast<std::size_t>(e)] = layer.experts[static_cast<std::size_t>(order[e])];
    permuted.router.logits.weight.eigen().row(e) = layer.router.logits.weight.eigen().row(order[e]);
  }
  const auto x = random_tokens<6, double>(7, 9);
  CHECK(distance(Run<Two>(layer, x, seven).y, Run<Two>(permuted, x, seven).y) < 1e-14);
}

TEST_CASE(
    "a capacity that no expert exceeds changes no bit, and under a smaller one tokens without experts have "
    "output zero") {
  const auto layer = drawn<Two>(10);
  const auto x = random_tokens<6, double>(7, 11);
  Pass pass = seven;
  const Run<Two> dropless(layer, x, pass);
  CHECK(dropless.tape.plan.dropped() == 0);
  Index largest = 0;
  for (int e = 0; e < 5; ++e) largest = std::max(largest, dropless.tape.plan.load(e));
  pass.options.capacity_factor = (static_cast<double>(largest) + 0.5) * 5 / 14;
  const Run<Two> enough(layer, x, pass);
  CHECK(same_bits(dropless.y, enough.y));
  pass.options.capacity_factor = 0.4;  // one token for each expert
  const Run<Two> few(layer, x, pass);
  CHECK(few.tape.plan.slot_count() + few.tape.plan.dropped() == 14);
  int without = 0;
  for (Index n = 0; n < 7; ++n)
    if (few.tape.plan.slot[2 * n] == no_slot && few.tape.plan.slot[2 * n + 1] == no_slot) {
      ++without;
      for (int i = 0; i < 6; ++i) CHECK(few.y[n][i] == 0);
    }
  CHECK(without > 0);
}

TEST_CASE("uniform scores have the balance loss 1, and it counts requested pairs, not slots") {
  Two layer = drawn<Two>(12);
  const auto x = random_tokens<6, double>(7, 13);
  Pass pass = seven;
  pass.options.capacity_factor = 0.4;
  const Run<Two> run(layer, x, pass);
  double expected = 0;
  for (int e = 0; e < 5; ++e)
    expected += 5 * static_cast<double>(run.tape.plan.wanted[e]) / 14 * run.tape.mean_score[e];
  CHECK(run.tape.balance == Approx(expected).epsilon(1e-14));
  layer.router.logits.weight.eigen().setZero();
  const Run<Two> uniform(layer, x, seven);
  CHECK(uniform.tape.balance == Approx(1).epsilon(1e-15));
  CHECK(uniform.tape.z == Approx(std::log(5.0) * std::log(5.0)).epsilon(1e-14));
}

TEMPLATE_TEST_CASE("given its routing a token's output does not depend on other tokens (invariant 6)", "",
                   float, double) {
  using L = MoELayer<TopKRouter<5, 2>, Expert<6, 37, Activation::gelu, TestType>>;
  const auto layer = drawn<L>(14);
  const auto x = random_tokens<6, TestType>(40, 15);
  const Run<L> all(layer, x, {.shape = {1, 40}, .exec = {2}});
  for (Index n = 0; n < 40; ++n) {
    const Run<L> alone(layer, x.rows({n, 1}), {});
    CHECK(same_bits(alone.y[0], all.y[n], 6));
  }
}

TEST_CASE("a mixture has the same bits for 1, 2, 3 and 8 threads, forward and backward (invariant 5)") {
  using L = MoELayer<TopKRouter<5, 2>, Expert<6, 37, Activation::gelu, float>>;
  const auto layer = drawn<L>(16);
  const Index tokens = 900;  // several work items per expert
  const auto x = random_tokens<6, float>(tokens, 17), dy = random_tokens<6, float>(tokens, 18);
  RoutedPass pass({.shape = {1, tokens}, .dropout = 0.2, .key = Key{19}},
                  {.objective = {.balance = 0.1, .z = 0.1}});
  Run<L> one(layer, x, pass);
  const Back<L> one_back(layer, one, x, dy, pass);
  for (const int threads : {2, 3, 8}) {
    pass.exec.threads = threads;
    Run<L> many(layer, x, pass);
    const Back<L> many_back(layer, many, x, dy, pass);
    CHECK(same_bits(one.y, many.y));
    CHECK(one.tape.balance == many.tape.balance);
    CHECK(same_bits(one_back.dx, many_back.dx));
    CHECK(same_weights(one_back.grad, many_back.grad));
  }
}

TEST_CASE("counts sum to N K, and padding is not among them and has output zero") {
  const auto layer = drawn<Two>(20);
  const auto x = random_tokens<6, double>(10, 21);
  const Index lengths[2] = {2, 5};
  const Run<Two> run(layer, x, {.shape = {2, 5}, .lengths = lengths});
  Index counted = 0;
  for (const Index w : run.tape.plan.wanted) counted += w;
  CHECK(counted == 7 * 2);
  for (Index n = 2; n < 5; ++n)
    for (int i = 0; i < 6; ++i) CHECK(run.y[n][i] == 0);
  // token 5 is the first of the second sequence, which does not depend on the padding before it
  const Run<Two> alone(layer, x.rows({5, 5}), {.shape = {1, 5}});
  CHECK(same_bits(alone.y[0], run.y[5], 30));
}

TEST_CASE("a later token changes no earlier token's output, also under a capacity") {
  const auto layer = drawn<Two>(22);
  const auto x = random_tokens<6, double>(20, 23);
  for (const double factor : {0.0, 0.7}) {
    const Pass pass{.shape = {1, 20}, .options = {.capacity_factor = factor}};
    const Run<Two> before(layer, x, pass);
    for (Index changed = 1; changed < 20; ++changed) {
      auto other = x;
      for (int i = 0; i < 6; ++i) other[changed][i] = 1 - 2 * x[changed][i];
      CHECK(same_bits(Run<Two>(layer, other, pass).y[0], before.y[0], changed * 6));
    }
  }
}

TEST_CASE("dropout of a slot depends on its token's global number and choice") {
  const auto layer = drawn<Two>(24);
  const auto x = random_tokens<6, double>(20, 25);
  Pass pass{.shape = {1, 20}, .dropout = 0.5, .key = Key{26}};
  const Run<Two> all(layer, x, pass);
  pass.shape = {1, 5};
  pass.first_token = 10;
  const Run<Two> part(layer, x.rows({10, 5}), pass);
  CHECK(same_bits(part.y[0], all.y[10], 30));
}

TEST_CASE("an expert without tokens has a gradient of zero and is not marked, the others are") {
  const auto layer = drawn<Two>(27);
  const auto x = random_tokens<6, double>(7, 28), dy = random_tokens<6, double>(7, 29);
  const bool allowed[5] = {true, true, false, true, true};
  const RoutedPass pass(seven, {.allowed = allowed});
  Run<Two> run(layer, x, pass);
  const Back<Two> back(layer, run, x, dy, pass);
  for (std::size_t e = 0; e < 5; ++e) {
    const bool used = run.tape.plan.load(static_cast<int>(e)) > 0;
    CHECK(back.grad.experts[e].up.weight.touched == used);
    double largest = 0;
    for (const double g : back.grad.experts[e].up.weight) largest = std::max(largest, std::abs(g));
    CHECK((largest > 0) == used);
  }
  CHECK_FALSE(back.grad.experts[2].down.bias.touched);
  CHECK(run.tape.plan.load(2) == 0);
}

TEST_CASE("experts are sparse weights in fields(), the router is not") {
  Two layer;
  for_each_named_weight([](const std::string& path, Kind kind,
                           auto&) { CHECK((kind == Kind::sparse) == (path.rfind("experts.", 0) == 0)); },
                        layer);
}

TEST_CASE("frozen experts and a frozen router do not change dx and the other gradients") {
  const auto layer = drawn<Two>(30);
  const auto x = random_tokens<6, double>(7, 31), dy = random_tokens<6, double>(7, 32);
  const RoutedPass pass(seven, {.objective = {.balance = 0.1, .z = 0.1}});
  Run<Two> run(layer, x, pass);
  const Back<Two> back(layer, run, x, dy, pass);
  Two frozen, no_dx;
  Tokens<6, double> dx(7);
  for_each_weight([](auto& w) { w.release(); }, frozen.router);
  for_each_weight([](auto& w) { w.release(); }, frozen.experts[1]);
  layer.backward(x, run.tape, dy, dx, frozen, run.scratch, pass);
  CHECK(same_bits(dx, back.dx));
  CHECK(count_weights(frozen.router) == 0);
  CHECK(count_weights(frozen.experts[1]) == 0);
  CHECK(same_weights(frozen.experts[0], back.grad.experts[0]));
  layer.backward(x, run.tape, dy, {}, no_dx, run.scratch, pass);
  CHECK(same_weights(no_dx, back.grad));
}

TEST_CASE("a NaN in the router reaches the output, and the plan stays valid") {
  auto layer = drawn<Two>(33);
  layer.router.logits.weight.eigen().setConstant(std::numeric_limits<double>::quiet_NaN());
  const auto x = random_tokens<6, double>(7, 34);
  const Run<Two> run(layer, x, seven);
  CHECK(run.tape.plan.slot_count() == 14);
  for (Index n = 0; n < 7; ++n) CHECK(std::isnan(run.y[n][0]));
  CHECK(std::isnan(run.tape.balance));
}

TEST_CASE(
    "a mixture rejects a plan that ignores the pass or is inconsistent, with the router's name and what to "
    "call") {
  using L = MoELayer<PlantedRouter, Small>;
  const auto layer = drawn<L>(35);
  const auto x = random_tokens<6, double>(40, 36);
  const AllowedExperts<PlantedRouter> two{0, 3};
  const Index lengths[2] = {20, 3};
  RoutedPass pass({.shape = {2, 20}, .options = {.capacity_factor = 0.2}}, {});  // 40 * 2 / 4 * 0.2 = 4 each
  const auto refused = [&](RouterFault fault) {
    router_fault = fault;
    const std::string text = refusal([&] { Run<L>(layer, x, pass); });
    router_fault = RouterFault::none;
    return text;
  };
  const auto says = [&](RouterFault fault, std::string_view what) {
    const std::string text = refused(fault);
    CAPTURE(text);
    return text.find("moegpt: PlantedRouter: ") == 0 && text.find(what) != std::string::npos;
  };
  CHECK(refused(RouterFault::none).empty());
  CHECK(says(RouterFault::ignores_capacity,
             "under capacity_factor 0.2 at most 4: call plan.assign(chosen, gate, pass)"));
  pass.options = {};
  CHECK(says(RouterFault::offsets_descend, "let plan.assign(chosen, gate, pass) fill it"));
  CHECK(says(RouterFault::too_few_tokens, "its plan is for 39 tokens with 2 choices among 4 experts"));
  pass.context.allowed = two;
  CHECK(refused(RouterFault::none).empty());
  CHECK(says(RouterFault::ignores_allowed, "but that expert is not allowed"));
  pass.context.allowed = nullptr;
  pass.lengths = lengths;
  CHECK(refused(RouterFault::none).empty());
  CHECK(says(RouterFault::routes_padding, "choose nothing where pass.is_padding(n)"));
  CHECK(refused(RouterFault::expert_does_not_exist).find("is expert 4, expected 0 .. 3, or no_expert") !=
        std::string::npos);
}

TEST_CASE("a mixture rejects an invalid objective") {
  const auto layer = drawn<Two>(41);
  const auto x = random_tokens<6, double>(7, 42);
  const auto refused = [&](const Objective& objective) {
    return refusal([&] { Run<Two>(layer, x, RoutedPass(seven, {.objective = objective})); });
  };
  CHECK(refused({.balance = 1}).empty());
  CHECK(refused({.balance = -1}).find("the objective's coefficient balance is -1") != std::string::npos);
  CHECK(refused({.expert_dropout = 1}).find("the objective's expert_dropout is 1") != std::string::npos);
}

TEST_CASE(
    "a mixture accepts plans under drop policies of any group and rounding, and those of expert choice") {
  const auto x = random_tokens<6, double>(60, 37);
  const Index lengths[3] = {20, 0, 7};
  const auto takes = [&](auto recipe) {
    using L = MoELayer<decltype(recipe), Small>;
    const auto layer = drawn<L>(38);
    Index dropped = 0;
    for (const double factor : {0.05, 0.3, 1.0, 4.0})
      for (const double least : {0.0, 1.0, 3.0})
        for (const bool padded : {false, true})
          for (const bool partial : {false, true}) {
            const Pass pass{.shape = {3, 20},
                            .options = {.capacity_factor = factor, .min_capacity = least},
                            .key = Key{1},
                            .lengths = padded ? lengths : nullptr,
                            .partial = partial};
            const std::string text = refusal([&] { dropped += Run<L>(layer, x, pass).tape.plan.dropped(); });
            CAPTURE(factor, least, padded, text);
            CHECK((text.empty() || text.find("moegpt: capacity: ") == 0));  // below one slot
          }
    return dropped;
  };
  using Top = TopKRouter<5, 2>;
  CHECK(takes(Top{}) > 0);
  CHECK(takes(Dropping<Top, Drop::slot_major, Group::sequence>{}) > 0);
  CHECK(takes(Dropping<Top, Drop::probability, Group::position>{}) > 0);
  CHECK(takes(Dropping<Top, Drop::batch_prioritised, Group::batch, Round::up>{}) > 0);
  CHECK(takes(Masked<Dropping<Top, Drop::token_order, Group::sequence, Round::up>>{}) > 0);
  CHECK(takes(Dropping<Masked<Top>, Drop::token_order, Group::position, Round::up>{}) > 0);
  CHECK(takes(ExpertChoiceRouter<5, 2>{}) == 0);
  CHECK(takes(Masked<ExpertChoiceRouter<5, 2>>{}) == 0);
}

TEST_CASE("a router of NaN weights selects no expert that is not allowed") {
  auto layer = drawn<Two>(39);
  layer.router.logits.weight.eigen().setConstant(std::numeric_limits<double>::quiet_NaN());
  const auto x = random_tokens<6, double>(7, 40);
  const AllowedExperts<TopKRouter<5, 2>> last{2, 4};
  const RoutedPass pass(seven, {.allowed = last});
  const Run<Two> run(layer, x, pass);
  CHECK(run.tape.plan.load(2) == 7);
  CHECK(run.tape.plan.load(4) == 7);
  for (Index n = 0; n < 7; ++n) CHECK(std::isnan(run.y[n][0]));
}
