// A step of a model with retrieval, the search included, allocates nothing after the first.
#include "count.hpp"

#include <moegpt/model/init.hpp>
#include <moegpt/retrieval/retrieval_gpt.hpp>
#include <moegpt/routing/top_k_router.hpp>
#include <moegpt/train/adam.hpp>
#include <moegpt/train/corpus.hpp>

#include "../support/catch.hpp"

#include <memory>

using namespace moegpt;

TEST_CASE(
    "steps 2 to 30 of a model with retrieval on two threads do not allocate, with and without passages") {
  constexpr Config trunk{.vocab = 29, .context = 16, .dim = 12, .layers = 2, .heads = 2, .hidden = 8};
  constexpr Config encoder{
      .vocab = 29, .context = 4, .dim = 8, .layers = 1, .heads = 2, .hidden = 8, .mask = Mask::full};
  constexpr RetrievalShape shape{.chunk = 3, .passages = 2, .length = 4, .after = {1}};
  using Model = RetrievalGPT<trunk, shape, encoder, TopKRouter<4, 2>, TopKRouter<4, 1>>;
  const auto model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  init(*model, Key{1}, Init::makemoe);
  std::vector<int> text(2000);
  Rng rng(3);
  for (int& id : text) id = static_cast<int>(rng.below(29));
  HashedNGrams retriever{.features = 16};
  PassageStore store(retriever.dim());
  for (int i = 0; i < 20; ++i) add_passage(store, retriever, std::span(text).subspan(5 * i, 1 + i % 5), i);
  Model::Workspace work({4, 16}, {.threads = 2}, {.dropout = 0.1, .balance = 0.01});
  Adam<Model> adam({.learning_rate = 1e-3});
  Batch batch{{4, 16}};
  ChunkPassages passages;
  const ChunkPassages none;
  ChunkSearch search;
  long most = 0;
  for (int step = 0; step < 30; ++step) {
    const long before = allocations;
    sample_batch(text, batch, Key{2}.with(Purpose::batch, step));
    retrieve_chunks(store, retriever, batch.inputs, batch.shape, {}, shape, passages, search, work.exec,
                    [](const ChunkOf&, Index) { return false; });
    const ChunkPassages& read = step % 3 == 2 ? none : passages;
    model->forward(batch, read, work, Key{2}.with(Purpose::step, step));
    set_zero(*grad, work.exec);
    model->backward(batch, read, work, *grad);
    adam.step(*model, *grad, work.exec);
    if (step > 0) most = std::max(most, allocations - before);
  }
  CHECK(most == 0);
}
