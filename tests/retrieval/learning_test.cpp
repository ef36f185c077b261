// A text whose facts stand in the store: with the right passages a model predicts them, with wrong ones as
// well as with none.
#include <moegpt/train/adam.hpp>

#include "support.hpp"

namespace {

// Ids: 0 .. 7 names, 8 .. 15 their values, 16 "of", 17 "is". A passage is "of <name> is <value>", a chunk of
// the text "<value> of <name>": its value is that of the name before. Each text has a world of its own.
constexpr int names = 8, of = 16, is = 17, vocab = 18, chunk = 3, chunks = 4;
constexpr Config trunk{
    .vocab = vocab, .context = chunk * chunks, .dim = 32, .layers = 2, .heads = 2, .hidden = 32};
constexpr Config encoder{
    .vocab = vocab, .context = 4, .dim = 32, .layers = 1, .heads = 2, .hidden = 32, .mask = Mask::full};
constexpr RetrievalShape shape{.chunk = chunk, .passages = 2, .length = 4, .after = {0}};
using Model = RetrievalGPT<trunk, shape, encoder, TopKRouter<4, 2>>;

struct World {
  Batch batch{{32, chunk* chunks}};
  ChunkPassages right{}, wrong{}, none{};

  explicit World(Key key) {
    Rng rng(key);
    HashedNGrams retriever{.features = 1024};
    PassageStore store(retriever.dim());
    for (int b = 0; b < batch.shape.batch; ++b) {
      int value_of[names];
      for (int i = 0; i < names; ++i) {
        value_of[i] = names + static_cast<int>(rng.below(names));
        add_passage(store, retriever, std::array{of, i, is, value_of[i]}, b * names + i);
      }
      for (int c = 0, first = static_cast<int>(rng.below(names)), value = of; c < chunks; ++c) {
        const int name = (first + 3 * c) % names;
        for (const int id : {value, of, name}) batch.inputs.push_back(id);
        value = value_of[name];
        for (const int target : {-1, -1, value}) batch.targets.push_back(target);
      }
    }
    ChunkSearch search;
    const auto of_another = [&](const ChunkOf& c, Index i) { return store.source(i) / names != c.sequence; };
    const auto answers = [&](const ChunkOf& c, Index i) {
      const auto text = batch.inputs.begin() + c.sequence * batch.shape.length;
      return of_another(c, i) || std::count(text, text + batch.shape.length, store.source(i) % names) > 0;
    };
    retrieve_chunks(store, retriever, batch.inputs, batch.shape, {}, shape, right, search, {}, of_another);
    retrieve_chunks(store, retriever, batch.inputs, batch.shape, {}, shape, wrong, search, {}, answers);
  }
};

}  // namespace

TEST_CASE("right passages halve the loss of facts that stand in the store, wrong ones leave that of none") {
  Model model, grad;
  init(model, Key{1}, Init::makemoe);
  Adam<Model> adam{{}};
  Model::Workspace work{{32, chunk * chunks}, {}, {.balance = 0.01}};
  for (int step = 0; step < 500; ++step) {
    const World world(Key{2}.with(Purpose::batch, step));
    const ChunkPassages& passages = step % 4 == 0 ? world.none : step % 4 == 1 ? world.wrong : world.right;
    adam.options.learning_rate = 1e-2 * std::min(1.0, (510.0 - step) / 250);
    model.forward(world.batch, passages, work);
    set_zero(grad);
    model.backward(world.batch, passages, work, grad);
    adam.step(model, grad);
  }
  double right = 0, wrong = 0, none = 0;
  for (int i = 0; i < 8; ++i) {
    const World test(Key{3}.with(Purpose::evaluation, i));
    right += model.forward(test.batch, test.right, work).cross_entropy / 8;
    wrong += model.forward(test.batch, test.wrong, work).cross_entropy / 8;
    none += model.forward(test.batch, test.none, work).cross_entropy / 8;
  }
  CAPTURE(right, wrong, none);
  CHECK(none == Approx(std::log(8.0)).epsilon(0.1));
  CHECK(right < 0.5 * none);
  CHECK(wrong == Approx(none).epsilon(0.05));
}
