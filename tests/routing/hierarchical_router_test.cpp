#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/routing/hierarchical_router.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>
#include <moegpt/testing/gradcheck.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/layers.hpp"
#include "support/numbers.hpp"
#include "support/rules.hpp"

#include <set>

using namespace moegpt;

namespace {

using Small = Expert<6, 5, Activation::gelu, double>;
template <int E>
using DenseOf = TopKRouter<E, E, TopK{.gates = Gates::probability}>;
template <class Outer, class Inner>
using Router6 = typename HierarchicalRouter<Outer, Inner>::template For<6, double>;
using Sparse = HierarchicalRouter<TopKRouter<4, 2>, TopKRouter<3, 2>>;
using HME = HierarchicalRouter<DenseOf<2>, DenseOf<3>>;
const Pass seven{.shape = {1, 7}};

struct Route {
  RoutingPlan<double> plan;
  Route(const auto& router, In<6, double> x, auto& tape, const Pass& pass) {
    router.forward(x, plan, tape, pass);
  }
};

}  // namespace

TEST_CASE("the gradients of hierarchical routing agree with differences, top-k and dense at either level") {
  const Index lengths[2] = {5, 3};
  GradcheckOptions options;
  SECTION("plain") {}
  SECTION("padding, capacity, noise") {
    options.pass.lengths = lengths;
    options.pass.options.capacity_factor = 0.8;
    options.pass.key = Key{3};
  }
  gradcheck_three_seeds<Router6<TopKRouter<4, 2>, TopKRouter<3, 2>>>(options);
  gradcheck_three_seeds<Router6<TopKRouter<3, 1>, TopKRouter<2, 1>>>(options);
  gradcheck_three_seeds<Router6<TopKRouter<4, 3>, TopKRouter<2, 1>>>(options);
  gradcheck_three_seeds<Router6<DenseOf<2>, DenseOf<3>>>(options);
  gradcheck_three_seeds<Router6<DenseOf<2>, TopKRouter<4, 2>>>(options);
  gradcheck_three_seeds<Router6<TopKRouter<4, 2>, DenseOf<2>>>(options);
  gradcheck_three_seeds<Router6<NoisyTopKRouter<2, 2>, NoisyTopKRouter<4, 2>>>(options);
  gradcheck_three_seeds<Router6<TopKRouter<3, 2>, ExpertChoiceRouter<2, 1>>>(options);
}

TEST_CASE(
    "the gradients of hierarchical routing agree with differences if experts and groups are not allowed") {
  GradcheckOptions options;
  const bool allowed[12] = {true, true, false, false, false, false, true, false, false, true, true, true};
  options.routing.allowed = allowed;
  options.routing.objective = {.balance = 0.5, .z = 0.3};
  gradcheck_three_seeds<Router6<TopKRouter<4, 2>, TopKRouter<3, 2>>>(options);
  gradcheck_three_seeds<MoELayer<Sparse, Small>>(options);
  gradcheck_three_seeds<MoELayer<HierarchicalRouter<DenseOf<4>, TopKRouter<3, 1>>, Small>>(options);
}

TEST_CASE(
    "dense on dense is the mixture of Jordan and Jacobs: sum over groups of a times sum over experts of b") {
  using L = MoELayer<HME, Small>;
  const auto layer = drawn<L>(1);
  const auto x = random_tokens<6, double>(7, 2);
  const Ran<L> run(layer, x, seven);
  const auto softmax_of = [&](const auto& router) {
    const Eigen::MatrixXd e = (router.logits.weight.eigen() * x.eigen()).array().exp();
    const Eigen::RowVectorXd sums = e.colwise().sum();
    return Eigen::MatrixXd(e * sums.cwiseInverse().asDiagonal());
  };
  const Eigen::MatrixXd a = softmax_of(layer.router.outer);
  Eigen::MatrixXd expected = Eigen::MatrixXd::Zero(6, 7);
  for (std::size_t g = 0; g < 2; ++g) {
    const Eigen::MatrixXd b = softmax_of(layer.router.inner[g]);
    Eigen::MatrixXd of_group = Eigen::MatrixXd::Zero(6, 7);
    for (std::size_t i = 0; i < 3; ++i) {
      FeedForward<Small> expert;
      expert.network = layer.experts[3 * g + i];
      of_group += Ran<FeedForward<Small>>(expert, x, seven).y.eigen() * b.row(Index(i)).asDiagonal();
      for (Index n = 0; n < 7; ++n)
        CHECK(run.tape.router.score[n][3 * g + i] == Approx(a(Index(g), n) * b(Index(i), n)).epsilon(1e-14));
    }
    expected += of_group * a.row(Index(g)).asDiagonal();
  }
  CHECK((run.y.eigen() - expected).cwiseAbs().maxCoeff() < 1e-14);  // sums of order one in another order
  CHECK(run.tape.plan.slot_count() == 7 * 6);
}

TEST_CASE("a token has the experts that inner routers select in the groups that the outer router selects") {
  Sparse::For<6, double> router;
  draw_weights(router, 3);
  const auto x = random_tokens<6, double>(40, 4);
  const Pass pass{.shape = {1, 40}};
  decltype(router)::Tape tape;
  const Route both(router, x, tape, pass);
  TopKRouter<4, 2>::For<6, double>::Tape outer;
  const Route outside(router.outer, x, outer, pass);
  CHECK(both.plan.slot_count() == 40 * 4);
  for (Index n = 0; n < 40; ++n)
    for (int j = 0; j < 2; ++j) {
      const auto g = static_cast<std::size_t>(outer.chosen[2 * n + j]);
      TopKRouter<3, 2>::For<6, double>::Tape inner;
      const Route inside(router.inner[g], x.rows({n, 1}), inner, {});
      for (int i = 0; i < 2; ++i) {
        const int e = static_cast<int>(g) * 3 + inner.chosen[i];
        const Index s = both.plan.slot[4 * n + 2 * j + i];
        CHECK((s >= both.plan.offset[e] && s < both.plan.offset[e + 1]));
        CHECK(both.plan.gate[s] == outer.gate[2 * n + j] * inner.gate[i]);
      }
    }
}

TEST_CASE("gates of two renormalised levels sum to one, and so do the scores of all experts") {
  Sparse::For<6, double> router;
  draw_weights(router, 5);
  const auto x = random_tokens<6, double>(40, 6);
  decltype(router)::Tape tape;
  const Route route(router, x, tape, {.shape = {1, 40}});
  for (Index n = 0; n < 40; ++n) {
    double gates = 0, scores = 0;
    for (int j = 0; j < 4; ++j) gates += route.plan.gate[route.plan.slot[4 * n + j]];
    for (int e = 0; e < 12; ++e) scores += tape.score[n][e];
    CHECK(gates == Approx(1).epsilon(1e-14));
    CHECK(scores == Approx(1).epsilon(1e-14));
  }
}

TEST_CASE("equal experts under two renormalised levels are one expert") {
  using L = MoELayer<Sparse, Small>;
  auto layer = drawn<L>(7);
  for (auto& expert : layer.experts) expert = layer.experts[0];
  const auto x = random_tokens<6, double>(7, 8);
  FeedForward<Small> one;
  one.network = layer.experts[0];
  CHECK(distance(Ran<L>(layer, x, seven).y, Ran<FeedForward<Small>>(one, x, seven).y) < 1e-14);
}

TEST_CASE("a permutation of groups with all their weights gives the same output") {
  using L = MoELayer<Sparse, Small>;
  const auto layer = drawn<L>(9);
  auto permuted = layer;
  const std::size_t order[4] = {2, 0, 3, 1};
  for (std::size_t g = 0; g < 4; ++g) {
    permuted.router.outer.logits.weight.eigen().row(Index(g)) =
        layer.router.outer.logits.weight.eigen().row(Index(order[g]));
    permuted.router.inner[g] = layer.router.inner[order[g]];
    for (std::size_t i = 0; i < 3; ++i) permuted.experts[3 * g + i] = layer.experts[3 * order[g] + i];
  }
  const auto x = random_tokens<6, double>(7, 10);
  CHECK(distance(Ran<L>(layer, x, seven).y, Ran<L>(permuted, x, seven).y) < 1e-14);
}

TEST_CASE("one group of experts is the inner router alone") {
  using One = HierarchicalRouter<TopKRouter<1, 1>, TopKRouter<5, 2>>;
  const auto layer = drawn<MoELayer<One, Small>>(11);
  MoELayer<TopKRouter<5, 2>, Small> flat;
  flat.router = layer.router.inner[0];
  flat.experts = layer.experts;
  const auto x = random_tokens<6, double>(7, 12);
  const Ran<MoELayer<One, Small>> run(layer, x, seven);
  const Ran<decltype(flat)> expected(flat, x, seven);
  CHECK(same_bits(run.y, expected.y));
  CHECK(run.tape.balance == Approx(expected.tape.balance).epsilon(1e-14));
}

TEST_CASE("uniform scores at both levels have the balance loss one") {
  using L = MoELayer<Sparse, Small>;
  auto layer = drawn<L>(13);
  for_each_weight(
      [](auto& w) {
        for (auto& v : w) v = 0;
      },
      layer.router);
  const Ran<L> run(layer, random_tokens<6, double>(7, 14), seven);
  CHECK(run.tape.balance == Approx(1).epsilon(1e-14));
  const double outer = std::log(4.0), inner = std::log(3.0);
  CHECK(run.tape.z == Approx(outer * outer + 4 * inner * inner).epsilon(1e-14));
}

TEST_CASE("the capacity of hierarchical routing is that of the experts, and dropped pairs are counted") {
  Sparse::For<6, double> router;
  draw_weights(router, 15);
  const auto x = random_tokens<6, double>(40, 16);
  decltype(router)::Tape tape;
  Pass pass{.shape = {1, 40}};
  pass.options.capacity_factor = 0.5;  // 6 of 40 * 4 / 12
  const Route route(router, x, tape, pass);
  for (int e = 0; e < 12; ++e) CHECK(route.plan.load(e) <= 6);
  CHECK(route.plan.slot_count() + route.plan.dropped() == 160);
  CHECK(tape.outer_plan.dropped() == 0);
}

TEST_CASE("each level has its own noise") {
  using R = HierarchicalRouter<NoisyTopKRouter<3, 2>, NoisyTopKRouter<3, 2>>::For<6, double>;
  R router;
  draw_weights(router, 17);
  R::Tape tape;
  const Route route(router, random_tokens<6, double>(7, 18), tape, {.shape = {1, 7}, .key = Key{19}});
  std::set<double> draws;
  for (const double z : tape.outer.layer.normal.memory()) draws.insert(z);
  for (auto& inner : tape.inner)
    for (const double z : inner.layer.normal.memory()) draws.insert(z);
  CHECK(draws.size() == 4 * 21);
}

TEST_CASE("hierarchical routing passes check_router") {
  check_rule<Sparse>();
  check_rule<HierarchicalRouter<DenseOf<2>, NoisyTopKRouter<4, 2>>>();
  check_rule<HierarchicalRouter<TopKRouter<3, 2>, ExpertChoiceRouter<2, 1>>>();
}

TEST_CASE("hierarchical routing has the same bits for 1, 2, 3 and 8 threads") {
  threads_change_no_bit<MoELayer<Sparse, Expert<6, 37>>>();
}

TEST_CASE("freezing any weight of hierarchical routing changes no other gradient and no dx") {
  freezing_changes_no_other_gradient<MoELayer<Sparse, Small>>(
      RoutedPass(seven, {.objective = {.balance = 0.2, .z = 0.1}}));
}

TEST_CASE("hierarchical routing is causal if both levels are, and its text is the type one writes") {
  STATIC_REQUIRE(Sparse::causal);
  STATIC_REQUIRE_FALSE(HierarchicalRouter<TopKRouter<3, 2>, ExpertChoiceRouter<2>>::causal);
  STATIC_REQUIRE((Sparse::experts == 12 && Sparse::active == 4));
  CHECK(Sparse::text() == "HierarchicalRouter<TopKRouter<4, 2>, TopKRouter<3, 2>>");
}

TEST_CASE("hierarchical routing to 2^16 experts needs no stack memory for them") {
  check_small_stack<HierarchicalRouter<TopKRouter<256, 2>, TopKRouter<256, 2>>>();
}
