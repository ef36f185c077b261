// A GPT whose tokens look both ways. What it learns is what the targets ask: here, letters that were masked.
#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/train/adam.hpp>
#include <moegpt/train/clip.hpp>

#include "support.hpp"

namespace {

// A word and its mirror image, with one letter of the word masked: it is found only by looking ahead.
constexpr int letters = 6, half = 4, masked = letters, length = 2 * half;
constexpr Config encoder{.vocab = letters + 1,
                         .context = length,
                         .dim = 16,
                         .layers = 2,
                         .heads = 2,
                         .hidden = 16,
                         .mask = Mask::full};
constexpr Config decoder = [] {
  Config c = encoder;
  c.mask = Mask::causal;
  return c;
}();

Batch masked_mirrors(Index sequences, Key key) {
  Rng rng(key);
  Batch batch{{sequences, length}};
  for (Index b = 0; b < sequences; ++b) {
    int word[half];
    for (int& letter : word) letter = static_cast<int>(rng.below(letters));
    const int hidden = static_cast<int>(rng.below(half));
    for (int t = 0; t < length; ++t) {
      const int letter = word[t < half ? t : length - 1 - t];
      batch.inputs.push_back(t == hidden ? masked : letter);
      batch.targets.push_back(t == hidden ? letter : -1);
    }
  }
  return batch;
}

template <class Model>
double loss_after(int steps) {
  auto model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  init(*model, Key{1});
  Adam<Model> adam{{.learning_rate = 1e-2}};
  typename Model::Workspace work{{32, length}, {}, {.balance = 0.01}};
  for (int i = 0; i < steps; ++i) {
    const Batch batch = masked_mirrors(32, Key{2}.with(Purpose::batch, static_cast<std::uint64_t>(i)));
    model->forward(batch, work);
    set_zero(*grad);
    model->backward(batch, work, *grad);
    adam.step(*model, *grad, {}, clip_scale(global_norm(*grad), 1));
  }
  return model->forward(masked_mirrors(32, Key{3}), work).cross_entropy;
}

}  // namespace

TEST_CASE("an encoder learns masked letters from later ones, which a decoder cannot see") {
  const double guessing = std::log(double(letters));
  CHECK(loss_after<GPT<encoder, TopKRouter<4, 2>>>(0) == Approx(guessing).margin(0.3));
  CHECK(loss_after<GPT<encoder, TopKRouter<4, 2>>>(150) < 0.2 * guessing);
  CHECK(loss_after<GPT<decoder, TopKRouter<4, 2>>>(150) > 0.9 * guessing);
}

TEST_CASE("an encoder takes a router that compares tokens with later ones, as it is") {
  CHECK(loss_after<GPT<encoder, ExpertChoiceRouter<4, 2>>>(150) < 0.2 * std::log(double(letters)));
}

TEST_CASE("the first logits of an encoder depend on the last token, and are in the tape after forward") {
  using Model = GPT<encoder, TopKRouter<4, 2>>;
  const auto model = random_model<Model>(1);
  Batch batch{{1, length}, std::vector<int>(length, 1), std::vector<int>(length, -1)};  // nothing to predict
  Model::Workspace work{{1, length}, {}, {}, Use::inference};
  CHECK(model->forward(batch, work).cross_entropy == 0);
  const std::vector<float> before(work.tape.head.logits[0], work.tape.head.logits[1]);
  batch.inputs.back() = 2;
  model->forward(batch, work);
  CHECK_FALSE(same_bits(before.data(), work.tape.head.logits[0], letters + 1));
}
