#include <moegpt/routing/objective.hpp>
#include <moegpt/routing/routing_context.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <limits>
#include <set>

using namespace moegpt;

TEST_CASE("an objective starts without dropout and losses and with the balance rule of Switch") {
  constexpr Objective o;
  STATIC_REQUIRE((o.dropout == 0 && !o.expert_dropout));
  STATIC_REQUIRE((o.balance == 0 && o.z == 0 && o.importance == 0 && o.load == 0 && o.variance == 0));
  STATIC_REQUIRE((o.count == 0 && o.own == 0 && o.layer_weights.empty() && !o.hold_detached));
  STATIC_REQUIRE((o.variation == Variance::population));
  STATIC_REQUIRE(o.balance_rule == BalanceRule::switch_transformer);
  CHECK(refusal([&] { check_objective(o); }).empty());
}

// Switch (Fedus et al. 2021, eq. 4); GShard (Lepikhin et al. 2020, Algorithm 1: top-1 counts); Hugging Face
// load_balancing_loss_func (all layers concatenated, counts over tokens); megablocks (mean over layers);
// DeepSeek-V3 (eq. 17 to 20: of each sequence); flaxformer (counts over tokens, of each group)
TEST_CASE("each named balance rule is that of its system") {
  using R = BalanceRule;
  using C = R::Choices;
  using S = R::Share;
  using L = R::Layers;
  STATIC_REQUIRE(R::switch_transformer == R{C::all, S::of_pairs, Group::batch, L::sum});
  STATIC_REQUIRE(R::gshard == R{C::first, S::of_pairs, Group::batch, L::sum});
  STATIC_REQUIRE(R::huggingface == R{C::all, S::of_tokens, Group::batch, L::pooled});
  STATIC_REQUIRE(R::megablocks == R{C::all, S::of_pairs, Group::batch, L::mean});
  STATIC_REQUIRE(R::deepseek == R{C::all, S::of_pairs, Group::sequence, L::sum});
  STATIC_REQUIRE(R::flaxformer == R{C::all, S::of_tokens, Group::sequence, L::sum});
}

TEST_CASE("an invalid objective is rejected by a message that names the field") {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  const auto says = [](const Objective& objective, const std::string& part) {
    const std::string found = refusal([&] { check_objective(objective); });
    INFO(found);
    CHECK(found.find(part) != std::string::npos);
  };
  for (const double x : {-1.0, nan, inf}) {
    says({.balance = x}, "the objective's coefficient balance is ");
    says({.z = x}, "coefficient z is ");
    says({.importance = x}, "coefficient importance is ");
    says({.load = x}, "coefficient load is ");
    says({.variance = x}, "coefficient variance is ");
    says({.count = x}, "coefficient count is ");
    says({.own = x}, "coefficient own is ");
    const double weights[] = {1, x};
    says({.layer_weights = weights}, "a layer weight of the objective is ");
  }
  for (const double x : {-0.1, 1.0, 1.5, nan}) {
    says({.dropout = x}, "the objective's dropout is ");
    says({.expert_dropout = x}, "the objective's expert_dropout is ");
  }
  says({.balance_rule = {.group = Group::position}}, "Group::position");
  static constexpr double three[] = {1, 0, 2};
  says({.balance_rule = BalanceRule::huggingface, .layer_weights = three}, "one loss of all layers together");
  const std::string found = refusal([] { check_objective({.layer_weights = three}, 4); });
  CHECK(found.find("layer_weights of 3 layers, but the model has 4") != std::string::npos);
  constexpr Objective of_three{.balance_rule = BalanceRule::megablocks, .layer_weights = three};
  CHECK(refusal([&] { check_objective(of_three, 3); }).empty());
}

TEST_CASE("the objective of a layer has its coefficients times the layer's weight") {
  static constexpr double weights[] = {1, 0, 2};
  const RoutingContext routing{.objective = {.dropout = 0.1, .z = 3, .own = 5, .layer_weights = weights}};
  const Pass pass{.routing = &routing};
  CHECK(objective_of(pass).z == 3);
  CHECK(objective_of(pass.at_layer(1)).own == 0);
  CHECK(objective_of(pass.at_layer(2)).own == 10);
  CHECK(objective_of(pass.at_layer(2)).dropout == 0.1);
  CHECK(refusal([&] { objective_of(pass.at_layer(3)); }).find("the pass is in layer 3") != std::string::npos);
  CHECK(objective_of(Pass{}.at_layer(7)).z == 0);
}

namespace {
const RouterLosses<float> powers{
    .balance = 1, .z = 2, .importance = 4, .load = 8, .variance = 16, .count = 32, .own = 64};
}

TEST_CASE("the table of losses has a row for every coefficient, which multiplies the loss of its name") {
  CHECK(weighted({}, powers) == 0);
  CHECK(weighted({.balance = 3}, powers) == 3 * 1);
  CHECK(weighted({.z = 3}, powers) == 3 * 2);
  CHECK(weighted({.importance = 3}, powers) == 3 * 4);
  CHECK(weighted({.load = 3}, powers) == 3 * 8);
  CHECK(weighted({.variance = 3}, powers) == 3 * 16);
  CHECK(weighted({.count = 3}, powers) == 3 * 32);
  CHECK(weighted({.own = 3}, powers) == 3 * 64);
  const Objective all{.balance = 1, .z = 1, .importance = 1, .load = 1, .variance = 1, .count = 1, .own = 1};
  CHECK(weighted(all, powers) == 127);
  // fails if RouterLosses has a loss without a row in the table
  CHECK(sizeof(RouterLosses<double>) == sizeof(double) * std::size(loss_table<double>));
  std::set<std::string> names;
  for (const auto& row : loss_table<double>) names.insert(row.name);
  CHECK(names == std::set<std::string>{"balance", "z", "importance", "load", "variance", "count", "own"});
}

TEST_CASE("a scaled objective has its coefficients multiplied, and dropout and conventions as they were") {
  const Objective whole{.dropout = 0.1,
                        .expert_dropout = 0.2,
                        .balance = 1,
                        .balance_rule = BalanceRule::gshard,
                        .z = 2,
                        .importance = 3,
                        .load = 4,
                        .variation = Variance::unbiased,
                        .variance = 5,
                        .count = 6,
                        .own = 7};
  const Objective o = scaled(whole, 0.5);
  CHECK(o.dropout == 0.1);
  CHECK(o.expert_dropout == 0.2);
  CHECK(o.balance == 0.5);
  CHECK(o.z == 1);
  CHECK(o.importance == 1.5);
  CHECK(o.load == 2);
  CHECK(o.variance == 2.5);
  CHECK(o.count == 3);
  CHECK(o.own == 3.5);
  CHECK(o.balance_rule == BalanceRule::gshard);
  CHECK(o.variation == Variance::unbiased);
}

TEST_CASE("losses of layers add loss by loss, in double") {
  RouterLosses<double> sum{.balance = 0.25, .count = 0x1p-40};
  add_losses(powers, sum);
  add_losses(powers, sum);
  CHECK(sum.balance == 2.25);
  CHECK(sum.z == 4);
  CHECK(sum.importance == 8);
  CHECK(sum.load == 16);
  CHECK(sum.variance == 32);
  CHECK(sum.count == 64 + 0x1p-40);
  CHECK(sum.own == 128);
  add_losses(powers, sum, 0.5);
  CHECK(sum.own == 160);
}
