#include <moegpt/model/mixtures.hpp>

#include "support.hpp"

namespace {

constexpr Config config{.vocab = 7,
                        .context = 5,
                        .dim = 6,
                        .layers = 5,
                        .heads = 2,
                        .hidden = 5,
                        .dense_first = 1,
                        .moe_every = 2};  // mixtures in layers 2 and 4
using Model = GPT<config, TopKRouter<3, 2>>;

}  // namespace

TEST_CASE("the walk over mixtures visits those layers that route, in order, each with its own tape") {
  const auto model = random_model<Model>(1);
  Model::Workspace work{{2, 5}};
  model->forward(random_batch({2, 5}, 7, 2), work);
  std::vector<int> layers;
  Index pairs = 0;
  const Model::Workspace& read = work;
  for_each_mixture(*model, read, [&](int layer, const auto& mixture, const auto& tape) {
    layers.push_back(layer);
    for (Index wanted : tape.plan.wanted) pairs += wanted;
    const auto i = static_cast<std::size_t>(Model::Trunk::Blocks::index_within_kind(layer));
    CHECK(&mixture == &model->trunk.blocks.second[i].mixture);
    CHECK(&tape == &work.tape.trunk.blocks.second[i].mixture);
  });
  CHECK(layers == std::vector{2, 4});
  CHECK(pairs == 2 * 10 * 2);
}

TEST_CASE("the walk rejects an inference workspace, whose layers share one tape") {
  Model model;
  Model::Workspace work{{2, 5}, {}, {}, Use::inference};
  CHECK(contains(refusal([&] { for_each_mixture(model, work, [](int, auto&, auto&) {}); }), "for training"));
}

TEST_CASE("a dense model has no mixtures to walk over") {
  GPT<config> model;
  GPT<config>::Workspace work{{1, 2}};
  int visits = 0;
  for_each_mixture(model, work, [&](int, auto&, auto&) { ++visits; });
  CHECK(visits == 0);
}
