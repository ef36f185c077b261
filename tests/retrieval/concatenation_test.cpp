#include <moegpt/retrieval/concatenation.hpp>

#include "support.hpp"

TEST_CASE("passages are placed before each sequence, in order, and are no targets") {
  PassageStore store(1);
  const std::vector<float> any{1};
  store.add(std::vector{1, 2}, any), store.add(std::vector{3, 4, 5}, any);
  Batch batch{{3, 2}, {6, 7, 6, 7, 8, 9}, {7, 8, 7, 8, 9, -1}};
  batch.lengths = {2, 2, 1};
  const std::vector<Index> found{1, 0, 0, Neighbours::none, Neighbours::none, Neighbours::none};
  const Batch whole = with_passages(batch, store, found, 4);
  CHECK(whole.shape == Shape{3, 6});
  CHECK(whole.inputs == std::vector{3, 4, 5, 1, 6, 7, 1, 2, 6, 7, 0, 0, 8, 0, 0, 0, 0, 0});
  CHECK(whole.targets == std::vector{-1, -1, -1, -1, 7, 8, -1, -1, 7, 8, -1, -1, 9, -1, -1, -1, -1, -1});
  CHECK(whole.lengths == std::vector<Index>{6, 4, 1});
  CHECK_THROWS_AS(with_passages(batch, store, std::vector<Index>{1, 0}, 4), std::invalid_argument);
  CHECK_THROWS_AS(with_passages(batch, store, found, -1), std::invalid_argument);
  CHECK_THROWS_AS(with_passages(batch, store, std::vector<Index>{1, 0, 2}, 4), std::invalid_argument);
}

TEST_CASE("a decoder reads what stands before a text: other passages change its loss, its own tokens count") {
  constexpr Config config{.vocab = 10, .context = 6, .dim = 6, .layers = 1, .heads = 2, .hidden = 4};
  using Decoder = GPT<config, TopKRouter<3, 2>, double>;
  const auto model = random_model<Decoder>(3);
  const PassageStore store = random_store(5, 10, 1);
  const Batch batch{{1, 2}, {6, 7}, {7, 8}};
  Decoder::Workspace work({1, 6});
  const auto loss = [&](Index passage) {
    const Loss found = model->forward(with_passages(batch, store, std::vector{passage}, 4), work);
    CHECK(found.targets == 2);
    return found.cross_entropy;
  };
  CHECK(loss(Neighbours::none) == Approx(model->forward(batch, work).cross_entropy).epsilon(1e-13));
  CHECK(std::abs(loss(1) - loss(2)) > 1e-3);
}
