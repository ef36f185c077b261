#include <moegpt/model/routing_statistics.hpp>
#include <moegpt/model/gpt.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include <limits>

using namespace moegpt;

namespace {

// Layer 0 is dense.
using Model =
    GPT<Config{.vocab = 7, .context = 6, .dim = 8, .layers = 3, .heads = 2, .hidden = 8, .dense_first = 1},
        TopKRouter<4, 2>>;

Batch batch_of(int seed) {
  Batch batch{{2, 6}};
  Rng rng(static_cast<std::uint64_t>(seed));
  for (int n = 0; n < 12; ++n) batch.inputs.push_back(static_cast<int>(rng.below(7)));
  batch.targets.assign(12, 2);
  return batch;
}
Model model_of(std::uint64_t seed) {
  Model model;
  draw_weights(model, seed);
  return model;
}

}  // namespace

TEST_CASE("statistics have a place for each mixture, and none for a dense layer") {
  const Model model = model_of(1);
  Model::Workspace work{{2, 6}};
  RoutingStatistics<Model> statistics;
  const Batch batch = batch_of(1);
  model.forward(batch, work);
  statistics.add(model, work);
  REQUIRE(statistics.layers.size() == 2);
  CHECK(statistics.layers[0].layer == 1);
  CHECK(statistics.layers[1].layer == 2);
}

TEST_CASE("statistics add up what each forward left in the tape") {
  const Model model = model_of(1);
  Model::Workspace work{{2, 6}};
  RoutingStatistics<Model> statistics{7};
  std::vector<Index> load(4);
  double z = 0;
  for (int step = 0; step < 3; ++step) {
    const Batch batch = batch_of(step);
    model.forward(batch, work);
    statistics.add(model, work, batch.inputs);  // a token's class is its id
    const auto& tape = work.tape.trunk.blocks.second[1].mixture;
    for (int e = 0; e < 4; ++e) load[static_cast<std::size_t>(e)] += tape.plan.load(e);
    z += tape.z / 3;
  }
  const auto& layer = statistics.layers[1];
  CHECK(layer.routing.tokens == 36);
  CHECK(layer.routing.load == load);
  CHECK(layer.routing.mean_lse2() == Approx(z).epsilon(1e-5));
  CHECK(layer.routing.mean_top_gate() >= 0.5);  // the larger of two that sum to 1
  double importance = 0;
  Index labelled = 0;
  for (int e = 0; e < 4; ++e) importance += layer.routing.mean_score(e);
  for (const Index c : layer.classes.count) labelled += c;
  CHECK(importance == Approx(1));
  CHECK(labelled == 36 * 2);
  CHECK(statistics.worst_violation() ==
        std::max(statistics.layers[0].routing.max_violation(), layer.routing.max_violation()));
  CHECK(statistics.dead() == statistics.layers[0].routing.dead() + layer.routing.dead());

  statistics.clear();
  CHECK(statistics.layers[0].routing.tokens == 0);
  CHECK(statistics.layers[0].classes.mutual_information() == 0);
  RoutingStatistics<Model> fresh{7};
  const Batch batch = batch_of(5);
  model.forward(batch, work);
  for (auto* s : {&statistics, &fresh}) s->add(model, work, batch.inputs);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(statistics.layers[i].routing.wanted == fresh.layers[i].routing.wanted);
    CHECK(statistics.layers[i].routing.mean_lse2() == fresh.layers[i].routing.mean_lse2());
    CHECK(statistics.layers[i].classes.count == fresh.layers[i].classes.count);
  }
}

TEST_CASE("routes of a model are saturated at themselves, and less at those of another") {
  const Model model = model_of(1), other = model_of(2);
  Model::Workspace work{{2, 6}};
  const Batch batch = batch_of(1);
  model.forward(batch, work);
  const auto before = routes(model, work);
  model.forward(batch, work);
  const auto again = routes(model, work);
  other.forward(batch, work);
  const auto after = routes(other, work);
  REQUIRE(before.size() == 2);
  CHECK(saturation(before[1], again[1], 2) == 1);
  CHECK(saturation(before[1], after[1], 2) < 1);
}

TEST_CASE("statistics reject a workspace that keeps one layer only") {
  const Model model = model_of(1);
  Model::Workspace work{{2, 6}, {}, {}, Use::inference};
  RoutingStatistics<Model> statistics;
  CHECK(refusal([&] { statistics.add(model, work); }).find("make it for training") != std::string::npos);
}

TEST_CASE("statistics and routes of a workspace without a forward that returned are rejected") {
  Model model = model_of(1);
  Model::Workspace work{{2, 6}};
  RoutingStatistics<Model> statistics{7};
  const std::string none = "no forward of this workspace has returned";
  CHECK(refusal([&] { statistics.add(model, work); }).find(none) != std::string::npos);
  CHECK(refusal([&] { routes(model, work); }).find(none) != std::string::npos);
  const Batch batch = batch_of(1);
  model.head.weight[0] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(model.forward(batch, work), std::runtime_error);
  CHECK(refusal([&] { statistics.add(model, work); }).find("since one failed") != std::string::npos);
  CHECK(statistics.layers.empty());
}

TEST_CASE("labels that do not fit are rejected, and nothing is counted") {
  const Model model = model_of(1);
  Model::Workspace work{{2, 6}};
  RoutingStatistics<Model> statistics{3};
  const Batch batch = batch_of(1);
  model.forward(batch, work);
  statistics.add(model, work, std::vector<int>(12, 2));
  CHECK_FALSE(refusal([&] { statistics.add(model, work, std::vector<int>(12, 3)); }).empty());
  CHECK_FALSE(refusal([&] { statistics.add(model, work, std::vector<int>(11, 2)); }).empty());
  CHECK(statistics.layers[0].routing.tokens == 12);
  CHECK(statistics.layers[1].routing.tokens == 12);
}
