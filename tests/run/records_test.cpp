#include <moegpt/model/gpt.hpp>
#include <moegpt/model/init.hpp>
#include <moegpt/model/routing_statistics.hpp>
#include <moegpt/run/records.hpp>

#include "support/catch.hpp"

using namespace moegpt;

namespace {
using Model = GPT<Config{.vocab = 7, .context = 6, .dim = 8, .layers = 3, .heads = 2, .dense_first = 1},
                  TopKRouter<4, 2>>;
}

TEST_CASE("loads add up over forwards, those requested as well as those served") {
  Model model;
  init(model, Key{3});
  model.options.capacity_factor = 1;
  Model::Workspace work{{2, 6}};
  const Batch batch{{2, 6}, std::vector<int>(12, 1), std::vector<int>(12, 2), {}};  // all alike: it drops
  std::vector<LayerLoad> loads;
  RoutingStatistics<Model> statistics;
  for (int forward = 1; forward <= 2; ++forward) {
    model.forward(batch, work);
    statistics.add(model, work);
    add_loads(model, work, loads);
    REQUIRE(loads.size() == 2);
    for (std::size_t i = 0; i < 2; ++i) {
      CHECK(loads[i].layer == statistics.layers[i].layer);
      CHECK(loads[i].load == statistics.layers[i].routing.load);
      CHECK(loads[i].wanted == 24 * forward);
      CHECK(loads[i].dropped() > 0);
      CHECK(loads[i].dropped() == Approx(statistics.layers[i].routing.dropped()));
      CHECK(loads[i].max_over_mean() == Approx(1 + max_violation(loads[i].load)));
    }
  }
  clear(loads);
  CHECK(loads[1].wanted == 0);
  CHECK(loads[1].dead() == 4);
  loads.pop_back();
  CHECK_THROWS_WITH(add_loads(model, work, loads),
                    ContainsSubstring("of another model: layer 2 has 4 experts"));
  const Model::Workspace fresh{{2, 6}};
  CHECK_THROWS_WITH(add_loads(model, fresh, loads), ContainsSubstring("no forward of this workspace"));
}

TEST_CASE("the health of experts is that of the worst layer in each respect") {
  const LayerLoad even{0, 12, {3, 3, 3, 3}}, one{1, 12, {12, 0, 0, 0}}, half{2, 16, {2, 2, 2, 2}};
  CHECK(even.max_over_mean() == Approx(1));
  CHECK(even.entropy() == Approx(1));
  CHECK(even.dropped() == 0);
  CHECK(one.max_over_mean() == Approx(4));
  CHECK(one.entropy() == Approx(0).margin(1e-12));
  const std::vector<LayerLoad> layers{even, one, half};
  const ExpertHealth worst = worst_of(layers);
  CHECK(worst.max_over_mean == Approx(4));
  CHECK(worst.entropy == Approx(0).margin(1e-12));
  CHECK(worst.dropped == Approx(0.5));
  CHECK(worst.dead == 3);
  CHECK(worst.experts == 4);
  CHECK(worst_of({}).experts == 0);
  CHECK(LayerLoad{0, 5, {5}}.entropy() == 1);  // ln 1 = 0
}

TEST_CASE("the unigram loss is that of counts plus one") {
  const std::vector<int> train{0, 0, 1}, val{0, 2};
  CHECK(unigram_loss(train, val, 3) == Approx(-(std::log(3.0 / 6) + std::log(1.0 / 6)) / 2));
  CHECK(uniform_loss(3) == Approx(std::log(3.0)));
  CHECK_THROWS_WITH(unigram_loss(train, val, 2), ContainsSubstring("token id 2 is outside [0, 2)"));
  CHECK_THROWS_WITH(unigram_loss(train, {}, 2), ContainsSubstring("there are 0 tokens"));
}
