// After the workspace exists, neither a step of training nor a generated token allocates. A program of its
// own, because count_test.cpp replaces malloc.
#include "count.hpp"

#include "../../examples/presets.hpp"
#include "../support/catch.hpp"

#include <memory>

using namespace moegpt;

namespace {

// Features that the small preset does not have: learned positions, noise, biases, dense layers.
constexpr Config learned{.vocab = 29,
                         .context = 16,
                         .dim = 24,
                         .layers = 3,
                         .heads = 3,
                         .hidden = 32,
                         .head_bias = true,
                         .dense_first = 1};
constexpr Config both_ways{.vocab = 29,
                           .context = 16,
                           .dim = 24,
                           .layers = 3,
                           .heads = 3,
                           .hidden = 32,
                           .mask = Mask::full,
                           .residual = Residual::post_norm,
                           .mixture_at = {0, 2}};
constexpr Config with_window(int context, int window, int stride) {
  Config c = learned;
  c.context = context, c.window = window, c.stride = stride;
  c.positions = Positions::rotary, c.query_key_norm = QueryKeyNorm::head, c.rotary_dim = 4;
  return c;
}
using Sliding = GPT<with_window(300, 6, 0), TopKRouter<4, 2>>;  // its cache moves rows
using Strided = GPT<with_window(16, 4, 3), TopKRouter<4, 2>>;
using ExpertChoiceEncoder = GPT<both_ways, ExpertChoiceRouter<4, 2>>;
using Mixed = GPT<learned, NoisyTopKRouter<4, 2>>;
using InPanels = GPT<learned, NoisyTopKRouter<4, 2>, Stored<float>>;
using Narrow = GPT<learned, NoisyTopKRouter<4, 2>, Stored<float, BF16>>;
using Narrower = GPT<learned, NoisyTopKRouter<4, 2>, Stored<float, INT8>>;
constexpr Config adapted = [] {
  Config c = learned;
  c.adapter_rank = 4;
  return c;
}();
template <class N>
using Adapted = GPT<adapted, NoisyTopKRouter<4, 2>, N>;
using Small = training::Small::Model<>;
constexpr int steps = 50;

// The most allocations of a step after the first.
template <class Model>
long allocations_of_training(const training::Recipe& recipe, int threads = 2,
                             std::string_view trained = "*") {
  std::vector<int> text(10000);
  Rng rng(3);
  for (int& id : text) id = static_cast<int>(rng.below(static_cast<std::uint64_t>(Model::V)));
  const Exec exec{.threads = threads};
  const auto model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  init(*model, Key{1}, recipe.init);
  model->options = recipe.options;
  freeze_all_but(*grad, {trained});
  Adam<Model> adam(recipe.adam, *grad);
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

// The most allocations of a step in which no text starts, while texts slide and end.
template <class Model>
long allocations_of_a_batch(const std::optional<Key>& noise = {}) {
  const auto model = std::make_unique<Model>();
  init(*model, Key{1}, Init::makemoe);
  BatchGenerator<Model> batch(*model, {.batch = 3, .piece = 5, .exec = {.threads = 2}, .noise = noise});
  const int longest = static_cast<int>(2 * Model::config.context);
  for (const int tokens : {longest, 7, longest, 5})
    batch.add({.ids = {1, 2, 3},
               .tokens = tokens,
               .sampling = {.top_p = 0.9,
                            .min_p = 0.01,
                            .repetition_penalty = 1.1,
                            .presence_penalty = 0.1,
                            .bias = {{1, 1}},
                            .banned = {2},
                            .log_probabilities = 3}});
  batch.step();
  Index started = 3;
  long most = 0;
  while (!batch.done()) {
    const long before = allocations;
    const auto tokens = batch.step();
    const long more = allocations - before;
    const Index last = tokens.back().sequence;  // texts that start come last
    if (last < started) most = std::max(most, more);
    started = std::max(started, last + 1);
  }
  return most;
}

// The allocations of a batch of prompts of different lengths, their tokens and a new order after each.
template <class Model>
long allocations_of_batched_generation() {
  const auto model = std::make_unique<Model>();
  init(*model, Key{1}, Init::makemoe);
  Workspace<Model> work({3, 6}, {.threads = 2}, {}, Use::inference);
  typename Model::Cache cache(3);
  const int prompts[18] = {}, ids[3] = {1, 2, 3};
  const Index lengths[3] = {6, 1, 4}, order[3] = {1, 2, 0}, some[3] = {1, 0, 1};
  work.exec.region([](const Exec&) {});  // starts the threads
  const long before = allocations;
  model->logits(prompts, lengths, work, cache);
  for (int i = 0; i < 6; ++i) {
    model->logits(ids, work, cache);
    model->logits(ids, some, work, cache);
    cache.gather(order);
  }
  return allocations - before;
}

}  // namespace

TEST_CASE("batched generation with lengths of their own allocates nothing after its workspace and cache") {
  CHECK(allocations_of_batched_generation<Mixed>() == 0);
  CHECK(allocations_of_batched_generation<Small>() == 0);
  CHECK(allocations_of_batched_generation<Narrow>() == 0);
  CHECK(allocations_of_batched_generation<Narrower>() == 0);
}

TEST_CASE(
    "neither a step nor a token of a model with windows, strides and norms of queries and keys allocates") {
  training::Recipe recipe = training::Small::recipe();
  recipe.batch = {8, 16};
  recipe.options = {.qkv_clip = 1, .embedding_scale = 2, .residual_scale = 0.5, .logit_scale = 0.5};
  CHECK(allocations_of_training<Strided>(recipe) == 0);
  CHECK(allocations_of_generation<Strided>({}) == 0);
  CHECK(allocations_of_generation<Sliding>({}) == 0);
  CHECK(allocations_of_batched_generation<Sliding>() == 0);
}

TEST_CASE("a token of a model with weights in storage allocates nothing") {
  CHECK(allocations_of_generation<InPanels>({}) == 0);
  CHECK(allocations_of_generation<Narrow>({}) == 0);
  CHECK(allocations_of_generation<Narrower>({}) == 0);
  CHECK(allocations_of_generation<Adapted<Stored<float, INT8>>>({}) == 0);
}

TEST_CASE("steps 2 to 50 that train adapters alone do not allocate") {
  training::Recipe recipe = training::Small::recipe();
  recipe.batch = {8, 16};
  CHECK(allocations_of_training<Adapted<float>>(recipe, 2, "*.adapter") == 0);
}

TEST_CASE("steps 2 to 50 of the small preset on two threads do not allocate", "[slow]") {
  CHECK(allocations_of_training<Small>(training::Small::recipe()) == 0);
}

TEST_CASE("steps 2 to 50 on two threads do not allocate with noise, dense layers and learned positions") {
  training::Recipe recipe = training::Small::recipe();
  recipe.batch = {8, 16};
  recipe.objective.z = 0.001;
  CHECK(allocations_of_training<Mixed>(recipe) == 0);
  recipe.objective = {.balance = 0.01,
                      .balance_rule = {.group = Group::sequence, .layers = BalanceRule::Layers::pooled},
                      .importance = 0.01,
                      .load = 0.01,
                      .variance = 0.01,
                      .count = 1e-6};
  CHECK(allocations_of_training<Mixed>(recipe) == 0);
}

TEST_CASE("steps 2 to 50 of a post-norm encoder do not allocate") {
  training::Recipe recipe = training::Small::recipe();
  recipe.batch = {8, 16};
  CHECK(allocations_of_training<ExpertChoiceEncoder>(recipe) == 0);
}

TEST_CASE("steps 2 to 50 on two threads do not allocate where experts drop pairs that are sorted for it") {
  training::Recipe recipe = training::Small::recipe();
  recipe.batch = {8, 16};
  recipe.options.capacity_factor = 0.5;
  using Inner = NoisyTopKRouter<4, 2>;
  CHECK(allocations_of_training<GPT<learned, AllowNonCausal<Dropping<Inner, Drop::probability>>>>(recipe) ==
        0);
  CHECK(allocations_of_training<GPT<learned, Dropping<Inner, Drop::batch_prioritised, Group::position>>>(
            recipe) == 0);
}

TEST_CASE("steps 2 to 50 on three threads do not allocate either") {
  training::Recipe recipe = training::Small::recipe();
  recipe.batch = {8, 16};
  CHECK(allocations_of_training<Mixed>(recipe, 3) == 0);
}

TEST_CASE("steps 2 to 50 with any rule by which tokens choose do not allocate, whatever losses are on") {
  training::Recipe recipe = training::Small::recipe();
  recipe.batch = {8, 16};
  recipe.objective = {.balance = 0.01,
                      .balance_rule = BalanceRule::huggingface,
                      .z = 0.001,
                      .importance = 0.1,
                      .load = 0.1,
                      .variance = 0.1,
                      .count = 1e-6};
  CHECK(allocations_of_training<GPT<learned, NoisyTopKRouter<4, 2>>>(recipe) == 0);
  CHECK(allocations_of_training<
            GPT<learned, InputJitter<SigmoidRouter<4, 2, Sigmoid{.groups = 2, .groups_kept = 1}>>>>(recipe) ==
        0);
  CHECK(allocations_of_training<GPT<learned, CosineRouter<4, 2>>>(recipe) == 0);
  CHECK(allocations_of_training<GPT<learned, TopPRouter<4, 3>>>(recipe) == 0);
  CHECK(allocations_of_training<GPT<learned, GShardRouter<4>>>(recipe) == 0);
  CHECK(allocations_of_training<GPT<learned, HashRouter<4, 2>>>(recipe) == 0);
}

TEST_CASE(
    "steps 2 to 50 with two levels of routers, masks and shared experts do not allocate, nor with soft "
    "mixtures") {
  training::Recipe recipe = training::Small::recipe();
  recipe.batch = {8, 16};
  recipe.objective.z = 0.001;
  using Levels = HierarchicalRouter<TopKRouter<3, 2>, NoisyTopKRouter<2, 2>>;
  CHECK(allocations_of_training<GPT<learned, SharedExperts<Masked<Levels>, 1, Shared::gated>>>(recipe) == 0);
  CHECK(allocations_of_training<GPT<learned, AllowNonCausal<SoftMoE<4, 2>>>>(recipe) == 0);
  CHECK(allocations_of_training<GPT<learned, WithSharedProjection<TopKRouter<4, 2>, 8, Activation::relu>>>(
            recipe) == 0);
}

TEST_CASE("no generated token after the first allocates, also when the context slides") {
  CHECK(allocations_of_generation<Mixed>({.temperature = 0}) == 0);
  CHECK(allocations_of_generation<Small>({}) == 0);
  CHECK(allocations_of_generation<Small>({.temperature = 0.8, .top_k = 5, .top_p = 0.9}) == 0);
  CHECK(allocations_of_generation<Small>({.min_p = 0.1,
                                          .repetition_penalty = 1.2,
                                          .frequency_penalty = 0.1,
                                          .bias = {{1, 2}},
                                          .banned = {3},
                                          .log_probabilities = 4}) == 0);
}

TEST_CASE("no step of a batch of texts allocates but one in which a text starts") {
  CHECK(allocations_of_a_batch<Mixed>() == 0);
  CHECK(allocations_of_a_batch<Mixed>(Key{3}) == 0);
  CHECK(allocations_of_a_batch<Small>() == 0);
}
