// After the workspace exists, neither a step of training nor a generated token allocates. A program of its own,
// because count_test.cpp replaces malloc.
#include "count.hpp"

#include "../../examples/presets.hpp"
#include "../support/catch.hpp"

#include <memory>

using namespace moegpt;

namespace {

// What the small preset does not have: learned positions, noise, biases, dense layers.
constexpr Config learned{.vocab = 29, .context = 16, .dim = 24, .layers = 3, .heads = 3, .hidden = 32,
                         .head_bias = true, .dense_first = 1};
using Mixed = GPT<learned, NoisyTopKRouter<4, 2>>;
using Small = training::Small::Model<>;
constexpr int steps = 50;

// The most allocations of a step after the first.
template <class Model>
long allocations_of_training(const training::Recipe& recipe, int threads = 2) {
  std::vector<int> text(10000);
  Rng rng(3);
  for (int& id : text) id = static_cast<int>(rng.below(static_cast<std::uint64_t>(Model::V)));
  const Exec exec{.threads = threads};
  const auto model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  init(*model, Key{1}, recipe.init);
  Adam<Model> adam(recipe.adam);
  Workspace<Model> work(recipe.batch, exec, recipe.objective);
  const WarmupCosine rate{recipe.learning_rate, recipe.final_rate, recipe.warmup, recipe.steps};
  Batch batch{recipe.batch};
  long most = 0;
  for (int step = 0; step < steps; ++step) {
    const long before = allocations;
    const auto number = static_cast<std::uint64_t>(step);
    sample_batch(text, batch, Key{2}.with(Purpose::batch, number));
    model->forward(batch, work, Key{2}.with(Purpose::step, number));
    set_zero(*grad, exec);
    model->backward(batch, work, *grad);
    adam.options.learning_rate = rate(step);
    adam.step(*model, *grad, exec, clip_scale(global_norm(*grad, exec), recipe.clip));
    if (step > 0) most = std::max(most, allocations - before);
  }
  return most;
}

// The most allocations of a token after the first, for more tokens than the context holds.
template <class Model>
long allocations_of_generation(const Sampling& sampling) {
  const auto model = std::make_unique<Model>();
  init(*model, Key{1}, Init::makemoe);
  Generator<Model> generator(*model, sampling, Rng(1), {.threads = 2});
  int id = generator.next(0);
  long most = 0;
  for (Index i = 0; i < 3 * Model::config.context; ++i) {
    const long before = allocations;
    id = generator.next(id);
    most = std::max(most, allocations - before);
  }
  return most;
}

}  // namespace

TEST_CASE("steps 2 to 50 of the small preset on two threads do not allocate", "[slow]") {
  CHECK(allocations_of_training<Small>(training::Small::recipe()) == 0);
}

TEST_CASE("steps 2 to 50 on two threads do not allocate with noise, dense layers and learned positions") {
  training::Recipe recipe = training::Small::recipe();
  recipe.batch = {8, 16};
  recipe.objective.z = 0.001;
  CHECK(allocations_of_training<Mixed>(recipe) == 0);
}

TEST_CASE("steps 2 to 50 on three threads do not allocate either") {
  training::Recipe recipe = training::Small::recipe();
  recipe.batch = {8, 16};
  CHECK(allocations_of_training<Mixed>(recipe, 3) == 0);
}

TEST_CASE("no generated token after the first allocates, also when the context slides") {
  CHECK(allocations_of_generation<Mixed>({.temperature = 0}) == 0);
  CHECK(allocations_of_generation<Small>({}) == 0);
  CHECK(allocations_of_generation<Small>({.temperature = 0.8, .top_k = 5, .top_p = 0.9}) == 0);
}
