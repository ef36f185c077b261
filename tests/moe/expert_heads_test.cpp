#include <moegpt/moe/expert_heads.hpp>
#include <moegpt/testing/gradcheck.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/layers.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

using Heads = ExpertHeads<TopKRouter<5, 2>, Expert<6, 4, Activation::gelu, double>, 3>;
const Pass seven{.shape = {1, 7}};

}  // namespace

TEST_CASE("the gradients of a head for each expert agree with differences") {
  GradcheckOptions options;
  SECTION("plain") {}
  SECTION("losses, dropout, a capacity and padding") {
    static const Index lengths[] = {3, 4};
    options.pass.shape = {2, 4};
    options.pass.lengths = lengths;
    options.pass.dropout = 0.3;
    options.routing.objective = {.balance = 0.5, .z = 0.3, .importance = 0.2};
    options.pass.key = Key{4};
    options.pass.options.capacity_factor = 0.8;
  }
  gradcheck_three_seeds<Heads>(options);
}

TEST_CASE("the output is the sum over a token's experts of gate times head of the expert's output") {
  const auto layer = drawn<Heads>(1);
  const auto x = random_tokens<6, double>(7, 2);
  const Ran<Heads> run(layer, x, seven);
  const auto& plan = run.tape.plan;
  Eigen::MatrixXd expected = Eigen::MatrixXd::Zero(3, 7);
  for (int e = 0; e < 5; ++e)
    for (Index s = plan.offset[e]; s < plan.offset[e + 1]; ++s) {
      const auto& head = layer.heads[static_cast<std::size_t>(e)].map;
      FeedForward<Expert<6, 4, Activation::gelu, double>> expert;
      expert.network = layer.mixture.experts[static_cast<std::size_t>(e)];
      const Ran<decltype(expert)> one(expert, x, seven);
      expected.col(plan.token[s]) += plan.gate[s] * (head.weight.eigen() * one.y.eigen().col(plan.token[s]) +
                                                     Eigen::VectorXd(head.bias.eigen().transpose()));
    }
  CHECK((run.y.eigen() - expected).cwiseAbs().maxCoeff() < 1e-14);
}

TEST_CASE("equal heads are one linear head on the output of the MoE layer if gates sum to one") {
  auto layer = drawn<Heads>(3);
  for (auto& head : layer.heads) head = layer.heads[0];
  const auto x = random_tokens<6, double>(7, 4);
  const Ran<Heads> run(layer, x, seven);
  const Ran<Heads::Mixture> mixture(layer.mixture, x, seven);
  const auto& head = layer.heads[0].map;
  const Eigen::MatrixXd expected =
      (head.weight.eigen() * mixture.y.eigen()).colwise() + Eigen::VectorXd(head.bias.eigen().transpose());
  CHECK((run.y.eigen() - expected).cwiseAbs().maxCoeff() < 1e-14);
}

TEST_CASE("a frozen weight of experts, heads or router changes no other gradient") {
  freezing_changes_no_other_gradient<Heads>(seven);
}

TEST_CASE("the head of an expert without tokens gets no gradient and is not marked") {
  const auto layer = drawn<Heads>(5);
  const auto x = random_tokens<6, double>(7, 6);
  const bool allowed[] = {true, true, false, true, true};
  const RoutingContext routing{.allowed = allowed};
  Pass pass = seven;
  pass.routing = &routing;
  const Ran<Heads> run(layer, x, pass);
  CHECK(run.tape.plan.load(2) == 0);
  Heads grad;
  Heads::Scratch scratch;
  Tokens<6, double> dx(7);
  layer.backward(x, run.tape, run.y, dx, grad, scratch, pass);
  CHECK_FALSE(grad.heads[2].map.weight.touched);
  CHECK(std::all_of(grad.heads[2].map.weight.begin(), grad.heads[2].map.weight.end(),
                    [](double d) { return d == 0; }));
  CHECK(grad.heads[run.tape.plan.load(0) > 0 ? 0 : 1].map.weight.touched);
}
