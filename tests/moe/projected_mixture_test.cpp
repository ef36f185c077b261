#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/moe/projected_mixture.hpp>
#include <moegpt/testing/gradcheck.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/layers.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

using AllOf5 = TopKRouter<5, 5, TopK{.gates = Gates::probability}>;
using Linear4 = LinearExpert<6, 4, double>;
const Pass seven{.shape = {1, 7}};

}  // namespace

TEST_CASE("the gradients of a mixture with a shared projection agree with differences") {
  GradcheckOptions options;
  SECTION("plain") {}
  SECTION("balance and z-losses, dropout, capacity") {
    options.pass.dropout = 0.3;
    options.routing.objective = {.balance = 0.5, .z = 0.3};
    options.pass.key = Key{4};
    options.pass.options.capacity_factor = 0.8;
  }
  gradcheck_three_seeds<ProjectedMixture<TopKRouter<5, 2>, Linear4, Activation::gelu>>(options);
  gradcheck_three_seeds<ProjectedMixture<TopKRouter<5, 1>, Linear4>>(options);
  gradcheck_three_seeds<ProjectedMixture<AllOf5, Linear4, Activation::relu>>(options);
}

TEST_CASE(
    "all linear experts with a shared projection are W relu of the sum over experts of p times Wx + b") {
  using L = ProjectedMixture<AllOf5, Linear4, Activation::relu>;
  const auto layer = drawn<L>(1);
  const auto x = random_tokens<6, double>(7, 2);
  const Ran<L> run(layer, x, seven);
  const auto X = x.eigen();
  const Eigen::MatrixXd exponentials = (layer.mixture.router.logits.weight.eigen() * X).array().exp();
  const Eigen::RowVectorXd sums = exponentials.colwise().sum();
  const Eigen::MatrixXd p = exponentials * sums.cwiseInverse().asDiagonal();
  Eigen::MatrixXd mixed = Eigen::MatrixXd::Zero(4, 7);
  for (std::size_t e = 0; e < 5; ++e) {
    const auto& map = layer.mixture.experts[e].map;
    const Eigen::MatrixXd y =
        (map.weight.eigen() * X).colwise() + Eigen::VectorXd(map.bias.eigen().transpose());
    mixed += y * p.row(static_cast<Index>(e)).asDiagonal();
  }
  const Eigen::MatrixXd expected = (layer.down.weight.eigen() * mixed.cwiseMax(0)).colwise() +
                                   Eigen::VectorXd(layer.down.bias.eigen().transpose());
  CHECK((run.y.eigen() - expected).cwiseAbs().maxCoeff() < 1e-14);  // sums of order one in another order
}

TEST_CASE("one linear expert with a shared projection is a feed-forward network, bit for bit") {
  const auto layer = drawn<ProjectedMixture<TopKRouter<1, 1>, Linear4, Activation::gelu>>(3);
  Expert<6, 4, Activation::gelu, double> dense;
  dense.up = layer.mixture.experts[0].map;
  dense.down = layer.down;
  const auto x = random_tokens<6, double>(7, 4), dy = random_tokens<6, double>(7, 5);
  Ran<std::remove_const_t<decltype(layer)>> run(layer, x, seven);
  FeedForward<decltype(dense)> feed_forward;
  feed_forward.network = dense;
  Ran<decltype(feed_forward)> expected(feed_forward, x, seven);
  CHECK(same_bits(run.y, expected.y));
  run.back(layer, x, dy, seven);
  expected.back(feed_forward, x, dy, seven);
  CHECK(distance(run.dx, expected.dx) < 1e-15);  // W_up^T is applied in another order
  CHECK(same_weights(run.grad.mixture.experts[0].map, expected.grad.network.up));
  CHECK(same_weights(run.grad.down, expected.grad.network.down));
}

TEST_CASE("freezing any weight of a mixture with a shared projection changes no other gradient and no dx") {
  freezing_changes_no_other_gradient<ProjectedMixture<TopKRouter<5, 2>, Linear4, Activation::gelu>>(seven);
}

TEST_CASE("a mixture with a shared projection has the same bits for 1, 2, 3 and 8 threads") {
  threads_change_no_bit<ProjectedMixture<TopKRouter<5, 2>, LinearExpert<6, 4>, Activation::silu>>();
}

TEST_CASE("a shared projection is causal if its router is, and its text is the type one writes") {
  using Recipe = WithSharedProjection<TopKRouter<5, 2>, 4, Activation::relu>;
  using Choice = WithSharedProjection<ExpertChoiceRouter<5>, 4>;
  CHECK(Recipe::text() == "WithSharedProjection<TopKRouter<5, 2>, 4, Activation::relu>");
  CHECK(Choice::text() == "WithSharedProjection<ExpertChoiceRouter<5, 2>, 4>");
  STATIC_REQUIRE(std::is_same_v<MixtureOf<Recipe, Expert<6, 9, Activation::gelu, double>>,
                                ProjectedMixture<TopKRouter<5, 2>, Linear4, Activation::relu>>);
  STATIC_REQUIRE_FALSE(MixtureOf<Choice, Expert<6, 9>>::causal);
  STATIC_REQUIRE(MixtureOf<AllowNonCausal<Choice>, Expert<6, 9>>::causal);
  std::string paths;
  for_each_named_weight(
      [&](const std::string& path, Kind kind, auto&) {
        if (path.find("experts") == std::string::npos || path.find(".0.") != std::string::npos)
          paths += path + (kind == Kind::sparse ? "(sparse) " : " ");
      },
      *std::make_unique<MixtureOf<Recipe, Expert<6, 9>>>());
  CHECK(paths == "router.gate.weight experts.0.weight(sparse) experts.0.bias(sparse) down.weight down.bias ");
}
