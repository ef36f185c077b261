#include <moegpt/train/progress.hpp>
#include <moegpt/model/init.hpp>

#include "support/catch.hpp"

using namespace moegpt;

TEST_CASE("the load of all layers is every token's choices") {
  using Model = GPT<Config{.vocab = 7, .context = 6, .dim = 8, .layers = 3, .heads = 2, .dense_first = 1},
                    TopKRouter<4, 2>>;
  Model model;
  init(model, Key{3});
  Model::Workspace work{{2, 6}};
  const Batch batch{{2, 6}, std::vector<int>(12, 1), std::vector<int>(12, 2), {}};
  model.forward(batch, work);
  const std::vector<Index> load = expert_load<Model>(work);
  REQUIRE(load.size() == 4);
  CHECK(load[0] + load[1] + load[2] + load[3] == 12 * 2 * 2);  // tokens x K x mixtures
}

TEST_CASE("bars are as high as their counts, an empty one is a blank") {
  const std::vector<Index> counts{0, 1, 4, 8};
  CHECK(bars(counts) == " ▁▄█");
  CHECK(bars(std::vector<Index>{0, 0}) == "  ");
}

TEST_CASE("the load of a workspace without a forward that returned and bars below zero are rejected") {
  using Model = GPT<Config{.vocab = 7, .context = 6, .dim = 8, .layers = 1, .heads = 2}, TopKRouter<4, 2>>;
  const Model::Workspace work{{2, 6}};
  CHECK_THROWS_WITH(expert_load<Model>(work), ContainsSubstring("no forward of this workspace has returned"));
  CHECK_THROWS_WITH(bars(std::vector<Index>{3, -1}), ContainsSubstring("a count is -1"));
}
