#include <moegpt/model/expert_pruning.hpp>
#include <moegpt/model/reshape.hpp>
#include <moegpt/train/adam.hpp>

#include "support.hpp"

namespace {

// A dense layer between two mixtures.
constexpr Config config{
    .vocab = 11, .context = 6, .dim = 8, .layers = 3, .heads = 2, .hidden = 12, .mixture_at = {0, 2}};
using Large = GPT<config, TopKRouter<6, 2>>;
using Small = GPT<config, TopKRouter<4, 2>>;
const Shape shape{2, 6};
const Batch batch = random_batch(shape, config.vocab, 9);

ExpertUse<Large> use_of(std::initializer_list<double> first, std::initializer_list<double> last) {
  ExpertUse<Large> use;
  use.load[0] = first;
  use.load[2] = last;
  return use;
}

}  // namespace

TEST_CASE("use is the number of pairs of each expert, and the sum of their gates") {
  const auto model = random_model<Large>(1);
  Large::Workspace work(shape);
  ExpertUse<Large> use;
  for (int i = 0; i < 2; ++i) {
    model->forward(batch, work);
    use.add(*model, work);
  }
  CHECK(use.load[1].empty());
  for (const std::size_t layer : {0, 2}) {
    double pairs = 0, gates = 0;
    for (std::size_t e = 0; e < 6; ++e) pairs += use.load[layer][e], gates += use.importance[layer][e];
    CHECK(pairs == 2 * 12 * 2);
    CHECK(gates == Approx(2 * 12));  // renormalised
  }
  use.clear();
  CHECK(use.load[0] == std::vector<double>(6, 0.0));
}

TEST_CASE("the least used experts are pruned, of each layer its own, of equal ones the last") {
  ExpertMask<Large> mask;
  CHECK(mask.prune(use_of({5, 1, 7, 2, 9, 3}, {4, 4, 4, 4, 4, 4}), 4, UseBy::load));
  CHECK(mask.kept() == std::vector<std::vector<int>>{{0, 2, 4, 5}, {0, 1, 2, 3, 4, 5}, {0, 1, 2, 3}});
  CHECK(mask.count() == 4);
  CHECK_FALSE(mask.prune(use_of({0, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 0}), 5, UseBy::load));
  // Pruned experts have no load, and stay pruned.
  CHECK(mask.prune(use_of({8, 0, 6, 0, 9, 7}, {0, 2, 3, 1, 0, 0}), 3, UseBy::load));
  CHECK(mask.kept()[0] == std::vector<int>{0, 4, 5});
  CHECK(mask.kept()[2] == std::vector<int>{1, 2, 3});
  CHECK(contains(refusal([&] { mask.prune(use_of({}, {}), 1, UseBy::load); }),
                 "1 experts were asked for, but the router selects 2"));
}

TEST_CASE("a model with a mask of each layer is pruned to a smaller one with the same bits") {
  const auto model = random_model<Large>(1), grad = std::make_unique<Large>();
  Large::Workspace work(shape);
  ExpertMask<Large> mask;
  mask.prune(use_of({5, 1, 7, 2, 9, 3}, {1, 5, 2, 7, 3, 9}), 4, UseBy::load);
  mask.apply(work);
  const double loss = model->forward(batch, work).total({.balance = 1});
  model->backward(batch, work, *grad);
  Adam<Large> adam;
  const Large before = *model;
  adam.step(*model, *grad);
  for (const std::size_t e : {1, 3}) {  // pruned: no tokens, no gradient, no step
    const auto& expert = grad->trunk.blocks.second[0].mixture.experts[e];
    CHECK_FALSE(expert.up.weight.touched);
    CHECK(expert.up.weight.eigen().isZero(0));
    CHECK(model->trunk.blocks.second[0].mixture.experts[e].up.weight.eigen() ==
          before.trunk.blocks.second[0].mixture.experts[e].up.weight.eigen());
  }
  const auto small = random_model<Small>(2);
  prune_experts(before, *small, mask.kept());
  Small::Workspace small_work(shape);
  CHECK(small->forward(batch, small_work).cross_entropy == before.forward(batch, work).cross_entropy);
  CHECK(std::isfinite(loss));
}

TEST_CASE("a mask of each layer is checked in each layer") {
  const auto model = random_model<Large>(1);
  Large::Workspace work(shape);
  Buffer<bool> allowed(3 * 6);
  allowed.fill(true);
  work.allowed = allowed.data();
  work.allowed_stride = 6;
  for (int e = 0; e < 6; ++e) allowed[6 + e] = false;  // the dense layer
  model->forward(batch, work);
  for (int e = 1; e < 6; ++e) allowed[12 + e] = false;
  CHECK(contains(refusal([&] { model->forward(batch, work); }), "allowed: 1 of 6 experts may be chosen"));
  work.allowed_stride = 5;
  CHECK(contains(refusal([&] { model->forward(batch, work); }), "allowed_stride is 5, expected 6"));
}

TEST_CASE("a schedule goes from one number of experts to the other, in a line") {
  const PruningSchedule schedule{.from = 8, .to = 4, .first = 100, .last = 200};
  std::vector<int> found;
  for (const Index step : {0, 99, 100, 124, 125, 150, 199, 200, 900}) found.push_back(schedule(step));
  CHECK(found == std::vector<int>{8, 8, 8, 8, 7, 6, 5, 4, 4});
  CHECK(PruningSchedule{.from = 8, .to = 2, .first = 5, .last = 5}(5) == 2);
  CHECK_THROWS_AS((PruningSchedule{.from = 2, .to = 4, .first = 0, .last = 9}(0)), std::invalid_argument);
}

TEST_CASE("experts join the most used expert with the most similar router row") {
  auto model = std::make_unique<Large>();
  const auto direct = [&](int layer, std::initializer_list<int> axes) {
    auto& gate = model->trunk.blocks.second[static_cast<std::size_t>(layer)].mixture.router.logits.weight;
    Index e = 0;
    for (const int axis : axes) gate[8 * e + axis] = 1, gate[8 * e++ + 7] = 0.1f;
  };
  direct(0, {0, 1, 2, 0, 1, 1});
  direct(1, {3, 3, 3, 5, 5, 5});
  const auto clusters =
      cluster_experts(*model, use_of({9, 8, 7, 1, 2, 3}, {1, 2, 9, 3, 8, 1}), 3, UseBy::load);
  CHECK(clusters[0] == std::vector<int>{0, 1, 2, 0, 1, 1});  // of 0, 1, 2
  CHECK(clusters[1].empty());
  CHECK(clusters[2] == std::vector<int>{0, 0, 0, 1, 2, 1});  // of 2, 3, 4; of equal ones the first
  CHECK_THROWS_AS(cluster_experts(*model, ExpertUse<Large>{}, 0, UseBy::load), std::invalid_argument);
}
