#include <moegpt/moe/mixture_losses.hpp>
#include <moegpt/moe/moe_layer.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>
#include <moegpt/routing/expert_choice_router.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"
#include "support/routed_pass.hpp"

using namespace moegpt;

namespace {

using Small = Expert<4, 3, Activation::gelu, double>;
template <int E, int K>
using TopKOf = MoELayer<TopKRouter<E, K>, Small>;
template <int E, int K>
using NoisyOf =
    MoELayer<std::conditional_t<K == 1, AllowConstantGate<NoisyTopKRouter<E, K>>, NoisyTopKRouter<E, K>>,
             Small>;

const BalanceRule every_rule[] = {BalanceRule::switch_transformer, BalanceRule::gshard,
                                  BalanceRule::huggingface,        BalanceRule::megablocks,
                                  BalanceRule::deepseek,           BalanceRule::flaxformer};

// All losses, with coefficients that make an error in any visible.
Objective all_losses(const BalanceRule& rule, Variance variation = Variance::population) {
  return {.balance = 0.5,
          .balance_rule = rule,
          .z = 0.3,
          .importance = 0.7,
          .load = 0.6,
          .variation = variation,
          .variance = 5,
          .count = 0.05};
}

template <class L>
struct Run {
  L layer;
  Tokens<4, double> x, y;
  typename L::Tape tape;
  typename L::Scratch scratch;
  explicit Run(const Pass& pass) : x(random_tokens<4, double>(pass.tokens(), 2)), y(pass.tokens()) {
    draw_weights(layer, 1);
    layer.forward(x, y, tape, scratch, pass);
  }
};

// Top-2 whose tape has members `chosen` and `load` of other meaning. Says: it declares the flags.
template <bool Says>
struct OwnNames {
  static constexpr int experts = 5, active = 2;
  static constexpr bool causal = true;
  template <int D, class T>
  struct For {
    using Scalar = T;
    static constexpr int dim = D;
    using Router = typename TopKRouter<5, 2>::template For<D, T>;
    Router router;
    static constexpr auto fields() { return Fields{Field{"", &For::router}}; }
    struct Tape {
      static constexpr bool has_choices = Says, has_expected_load = Says;
      Tokens<5, T> score;
      Tokens<1, T> lse;
      Buffer<int> chosen{1};  // not [tokens, 2]
      Buffer<T> load{5};      // not a load
      typename Router::Tape inner;
      void resize(const Pass& pass) {
        inner.resize(pass);
        load.fill(T(7));
        load[0] = 0;
      }
    };
    using Scratch = typename Router::Scratch;
    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      tape.resize(pass);
      router.forward(x, plan, tape.inner, pass);
      tape.score = tape.inner.score;
      tape.lse = tape.inner.lse;
    }
    void backward(In<D, T> x, const RoutingPlan<T>& plan, const Tape& tape, const RouterSignal<T>& signal,
                  Sum<D, T> dx, For& grad, Scratch& scratch, const Pass& pass) const {
      CHECK(signal.d_load == nullptr);
      router.backward(x, plan, tape.inner, signal, dx, grad.router, scratch, pass);
    }
  };
};

}  // namespace

TEMPLATE_TEST_CASE("all losses at once have gradients that agree with differences, through an MoE layer", "",
                   (TopKOf<5, 1>), (TopKOf<6, 2>), (TopKOf<8, 3>), (NoisyOf<5, 1>), (NoisyOf<6, 2>),
                   (NoisyOf<8, 3>), (NoisyOf<3, 3>), (MoELayer<ExpertChoiceRouter<5, 2>, Small>)) {
  GradcheckOptions options;
  options.per_tensor = 12;
  options.pass = {.shape = {2, 4}, .key = Key{3}};
  options.routing.objective = all_losses(BalanceRule::switch_transformer);
  const Index lengths[2] = {4, 2};
  const bool idle[8] = {true, true, false, true, true, true, true, true};
  SECTION("as it is") {}
  SECTION("without noise") { options.pass.key.reset(); }
  SECTION("unbiased variances") { options.routing.objective.variation = Variance::unbiased; }
  SECTION("per sequence, with padding") {
    options.routing.objective.balance_rule = BalanceRule::deepseek;
    options.pass.lengths = lengths;
  }
  SECTION("first choices, with an expert that takes one token") {
    options.routing.objective.balance_rule = BalanceRule::gshard;
    options.pass.options = {.capacity_factor = 0.3, .min_capacity = 1};
  }
  SECTION("an idle expert and shares of tokens") {
    options.routing.objective.balance_rule = BalanceRule::flaxformer;
    options.routing.allowed = idle;
  }
  gradcheck_three_seeds<TestType>(options);
}

TEST_CASE("each loss alone has a gradient that agrees with differences") {
  GradcheckOptions options;
  options.per_tensor = 12;
  options.pass = {.shape = {2, 4}, .key = Key{3}};
  Objective& o = options.routing.objective;
  SECTION("balance") { o.balance = 1; }
  SECTION("z") { o.z = 1; }
  SECTION("importance") { o.importance = 1; }
  SECTION("load") { o.load = 1; }
  SECTION("variance") { o.variance = 1; }
  SECTION("count") { o.count = 1; }
  gradcheck_three_seeds<TopKOf<6, 2>>(options);
  gradcheck_three_seeds<NoisyOf<6, 2>>(options);
}

TEST_CASE("uniform loads and scores give every rule its balanced value") {
  using Layer = MoELayer<TopKRouter<4, 2>, Small>;
  for (const BalanceRule& rule : every_rule) {
    Layer layer;  // zero weights: every score is 1/4
    const RoutedPass pass({.shape = {2, 4}}, {.objective = {.balance_rule = rule}});
    Tokens<4, double> x(8), y(8);
    Layer::Tape tape;
    Layer::Scratch scratch;
    layer.forward(x, y, tape, scratch, pass);
    // equal scores select experts 0 and 1; uniform scores give the balanced value for any f
    CHECK(tape.balance == Approx(balanced_value(rule, 2)).epsilon(1e-15));
    CHECK(tape.variance == 0);
    CHECK(tape.count == 0);
  }
}

TEST_CASE("GShard counts first choices, the others all choices, both before capacity") {
  RoutedPass pass({.shape = {2, 4}, .options = {.capacity_factor = 0.5}},
                  {.objective = {.balance_rule = BalanceRule::gshard}});
  const Run<TopKOf<5, 2>> first(pass);
  pass.context.objective.balance_rule = {};
  const Run<TopKOf<5, 2>> all(pass);
  double firsts[5] = {}, choices[5] = {};
  for (Index n = 0; n < 8; ++n) {
    const int* chosen = first.tape.router.chosen.data() + 2 * n;
    firsts[chosen[0]] += 1. / 8;
    for (int j = 0; j < 2; ++j) choices[chosen[j]] += 1. / 16;
  }
  REQUIRE(first.tape.plan.dropped() > 0);
  for (int e = 0; e < 5; ++e) {
    CHECK(first.tape.load_share[e] == firsts[e]);
    CHECK(all.tape.load_share[e] == choices[e]);
  }
}

TEST_CASE("the loss per sequence is the mean of each sequence's own loss") {
  RoutedPass pass({.shape = {2, 4}}, {.objective = {.balance_rule = BalanceRule::deepseek}});
  Run<TopKOf<5, 2>> both(pass);
  double mean = 0;
  pass.shape = {1, 4};
  for (const Index b : {0, 1}) {
    TopKOf<5, 2>::Tape tape;
    both.layer.forward(both.x.rows({4 * b, 4}), both.y.rows({4 * b, 4}), tape, both.scratch, pass);
    mean += tape.balance / 2;
  }
  CHECK(both.tape.balance == Approx(mean).epsilon(1e-14));
}

TEST_CASE("a sequence of padding only is not in the loss per sequence") {
  const Index lengths[2] = {4, 0};
  RoutedPass pass({.shape = {2, 4}, .lengths = lengths},
                  {.objective = {.balance_rule = BalanceRule::deepseek}});
  Run<TopKOf<5, 2>> padded(pass);
  TopKOf<5, 2>::Tape alone;
  pass.shape = {1, 4};
  padded.layer.forward(padded.x.rows({0, 4}), padded.y.rows({0, 4}), alone, padded.scratch, pass);
  CHECK(padded.tape.balance == alone.balance);
  CHECK(padded.tape.variance == alone.variance);
}

TEST_CASE("importance is CV^2 of sums of gates over slots, load that of requested pairs") {
  const RoutedPass pass({.shape = {1, 7}, .options = {.capacity_factor = 0.6}},
                        {.objective = {.variation = Variance::unbiased}});
  const Run<TopKOf<3, 2>> run(pass);
  const auto& plan = run.tape.plan;
  REQUIRE(plan.dropped() > 0);
  double gates[3] = {}, mean = 0, load_mean = 0, variance = 0, load_variance = 0;
  for (int e = 0; e < 3; ++e) {
    for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s) gates[e] += plan.gate[s];
    mean += gates[e] / 3;
    load_mean += static_cast<double>(plan.wanted[e]) / 3;
  }
  for (int e = 0; e < 3; ++e) {
    variance += (gates[e] - mean) * (gates[e] - mean) / 2;
    const double off = static_cast<double>(plan.wanted[e]) - load_mean;
    load_variance += off * off / 2;
  }
  CHECK(run.tape.importance == Approx(variance / (mean * mean)).epsilon(1e-8));  // 1e-10 in the denominator
  CHECK(run.tape.load == Approx(load_variance / (load_mean * load_mean)).epsilon(1e-8));
}

TEST_CASE(
    "the variance loss is that of mean scores, the count loss the mean square deviation of their sums") {
  const Pass pass{.shape = {2, 4}};
  const Run<TopKOf<5, 2>> run(pass);
  double squares = 0;
  for (int e = 0; e < 5; ++e) squares += (run.tape.mean_score[e] - 0.2) * (run.tape.mean_score[e] - 0.2);
  CHECK(run.tape.variance == Approx(squares / 4).epsilon(1e-12));
  CHECK(run.tape.count == Approx(64 * squares / 5).epsilon(1e-12));
}

TEST_CASE("rows of the logits' gradient sum to zero for every loss but the z-loss") {
  // W' = dz x^T: with x of ones in one feature the gradient of that column is the sum of dz over tokens
  for (const BalanceRule& rule : every_rule) {
    RoutedPass pass({.shape = {2, 4}}, {.objective = all_losses(rule)});
    for (const double z : {0.0, 1.0}) {
      pass.context.objective.z = z;
      Run<TopKOf<5, 2>> run(pass);
      for (Index n = 0; n < 8; ++n) run.x[n][0] = 1;
      run.layer.forward(run.x, run.y, run.tape, run.scratch, pass);
      TopKOf<5, 2> grad;
      Tokens<4, double> dy(8), dx(8);
      run.layer.backward(run.x, run.tape, dy, dx, grad, run.scratch, pass);
      double sum = 0, size = 0;
      for (int e = 0; e < 5; ++e) {
        sum += grad.router.logits.weight[e * 4];
        size += std::abs(grad.router.logits.weight[e * 4]);
      }
      REQUIRE(size > 0.01);
      if (z == 0)
        CHECK(std::abs(sum) < 1e-14 * size);
      else
        CHECK(std::abs(sum) > 1e-3 * size);
    }
  }
}

TEST_CASE("losses with coefficient zero do not change the gradient") {
  const Pass off{.shape = {2, 4}};
  const RoutedPass none(off, {.objective = {.balance_rule = BalanceRule::deepseek}});
  Run<TopKOf<5, 2>> a(off), b(none);
  TopKOf<5, 2> grad_a, grad_b;
  const auto dy = random_tokens<4, double>(8, 5);
  Tokens<4, double> dx_a(8), dx_b(8);
  a.layer.backward(a.x, a.tape, dy, dx_a, grad_a, a.scratch, off);
  b.layer.backward(b.x, b.tape, dy, dx_b, grad_b, b.scratch, none);
  CHECK(same_bits(dx_a, dx_b));
  CHECK(same_weights(grad_a, grad_b));
}

TEST_CASE("every loss has the same bits on one thread and on three") {
  RoutedPass pass({.shape = {3, 50}, .key = Key{1}}, {.objective = all_losses(BalanceRule::deepseek)});
  Run<NoisyOf<6, 2>> one(pass);
  pass.exec.threads = 3;
  Run<NoisyOf<6, 2>> three(pass);
  NoisyOf<6, 2> grad_one, grad_three;
  Tokens<4, double> dy(150), dx_one(150), dx_three(150);
  three.layer.backward(three.x, three.tape, dy, dx_three, grad_three, three.scratch, pass);
  pass.exec.threads = 1;
  one.layer.backward(one.x, one.tape, dy, dx_one, grad_one, one.scratch, pass);
  CHECK(one.tape.load == three.tape.load);
  CHECK(one.tape.importance == three.tape.importance);
  CHECK(one.tape.balance == three.tape.balance);
  CHECK(same_bits(dx_one, dx_three));
  CHECK(same_weights(grad_one, grad_three));
}

TEST_CASE(
    "a tape's own `chosen` and `load` are not read without its flags, and rejected if of a wrong size with "
    "them") {
  for (const BalanceRule& rule : every_rule) {
    RoutedPass pass({.shape = {2, 4}}, {.objective = all_losses(rule)});
    Run<TopKOf<5, 2>> plain(pass);
    Run<MoELayer<OwnNames<false>, Small>> own(pass);
    CHECK(own.tape.balance == plain.tape.balance);
    CHECK(own.tape.load == plain.tape.load);
    TopKOf<5, 2> grad;
    MoELayer<OwnNames<false>, Small> own_grad;
    Tokens<4, double> dx(8), own_dx(8);
    const auto dy = random_tokens<4, double>(8, 6);
    plain.layer.backward(plain.x, plain.tape, dy, dx, grad, plain.scratch, pass);
    own.layer.backward(own.x, own.tape, dy, own_dx, own_grad, own.scratch, pass);
    CHECK(same_bits(dx, own_dx));
    const std::string text = refusal([&] { Run<MoELayer<OwnNames<true>, Small>> offers(pass); });
    CAPTURE(text);
    CHECK(text.find("`chosen` (or `selected`) has 1 numbers: it must be [tokens, choices], here 8 x 2") !=
          std::string::npos);
  }
}

TEST_CASE("no_expert in `chosen` counts nothing, and what is neither that nor an expert is rejected") {
  const RoutedPass pass({.shape = {2, 4}}, {.objective = {.balance_rule = BalanceRule::gshard}});
  Run<TopKOf<5, 2>> run(pass);
  LossTape<double> losses;
  measure_losses<double>(run.tape.router, run.tape.plan, losses, pass);
  const double whole = losses.load_share[run.tape.router.chosen[0]];
  const int first = run.tape.router.chosen[0];
  run.tape.router.chosen[0] = no_expert;
  measure_losses<double>(run.tape.router, run.tape.plan, losses, pass);
  CHECK(losses.load_share[first] < whole);
  double sum = 0;
  for (int e = 0; e < 5; ++e) sum += losses.load_share[e];
  CHECK(sum == Approx(1));
  for (const int wrong : {-2, -2 - first, -1000, 5}) {
    run.tape.router.chosen[0] = wrong;
    const std::string found =
        refusal([&] { measure_losses<double>(run.tape.router, run.tape.plan, losses, pass); });
    CHECK(found.find("choice 0 of token 0 is expert " + std::to_string(wrong) +
                     ", expected 0 .. 4, or no_expert") != std::string::npos);
  }
}
