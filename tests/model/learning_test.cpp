// The smallest proof that everything works together: a tiny model learns.
#include <moegpt/train/adam.hpp>
#include <moegpt/train/clip.hpp>

#include "support.hpp"

namespace {

// Four letters, a mark and the letters in reverse; the model is asked for the second half only.
constexpr int letters = 5, half = 4, mark = letters, length = 2 * half;
constexpr Config config{
    .vocab = letters + 1, .context = length, .dim = 32, .layers = 2, .heads = 4, .hidden = 32};
using Model = GPT<config, TopKRouter<4, 2>>;

Batch reversals(Index sequences, Key key) {
  Rng rng(key);
  Batch batch{{sequences, length}};
  for (Index b = 0; b < sequences; ++b) {
    int word[half];
    for (int& letter : word) letter = static_cast<int>(rng.below(letters));
    for (int t = 0; t < length; ++t) {
      batch.inputs.push_back(t < half ? word[t] : t == half ? mark : word[2 * half - t]);
      batch.targets.push_back(t < half ? -1 : word[2 * half - 1 - t]);
    }
  }
  return batch;
}

struct Learner {
  std::unique_ptr<Model> model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  Adam<Model> adam{{.learning_rate = 3e-3}};
  Workspace<Model> work{{32, length}, {}, {.balance = 0.01}};

  Learner() { init(*model, Key{1}); }
  double step(const Batch& batch) {
    const double loss = model->forward(batch, work).cross_entropy;
    set_zero(*grad);
    model->backward(batch, work, *grad);
    adam.step(*model, *grad, {}, clip_scale(global_norm(*grad), 1));
    return loss;
  }
};

}  // namespace

TEST_CASE("a tiny model learns to reverse words that it never saw") {
  Learner learner;
  const double first = learner.step(reversals(32, Key{100}));
  CHECK(first == Approx(std::log(letters + 1.0)).margin(0.1));
  for (std::uint64_t i = 0; i < 600; ++i) learner.step(reversals(32, Key{2}.with(Purpose::batch, i)));
  // 625 words exist, so most were seen; what matters is that the loss is far below ln 5 = 1.6 of guessing a
  // letter
  CHECK(learner.model->forward(reversals(32, Key{101}), learner.work).cross_entropy < 0.1);
}

TEST_CASE("a tiny model learns one batch by heart") {
  Learner learner;
  Batch batch = reversals(32, Key{3});
  Rng rng(4);  // no rule: the answers are noise
  for (int& target : batch.targets) target = target < 0 ? -1 : static_cast<int>(rng.below(letters));
  double loss = 0;
  for (int i = 0; i < 300; ++i) loss = learner.step(batch);
  CHECK(loss < 0.1);
}
