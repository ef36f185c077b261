#include <moegpt/routing/masked.hpp>

#include "support.hpp"

namespace {

constexpr Config config{
    .vocab = 13, .context = 8, .dim = 12, .layers = 3, .heads = 2, .hidden = 10, .dense_first = 1};
using Model = GPT<config, TopKRouter<3, 2>>;
constexpr int V = 13;
constexpr Config turning = [] {
  Config c = config;
  c.heads = 4, c.kv_heads = 2, c.head_dim = 4, c.positions = Positions::rotary,
  c.residual = Residual::post_norm;
  return c;
}();
using Masks = GPT<turning, Masked<NoisyTopKRouter<5, 2>, 2>>;  // one for each of two tasks

// The gradient of a batch by a workspace that has seen other batches, or none.
std::unique_ptr<Model> gradient(const Model& model, const Batch& batch, Workspace<Model>& work) {
  auto grad = std::make_unique<Model>();
  model.forward(batch, work, Key{3});
  model.backward(batch, work, *grad);
  return grad;
}

}  // namespace

TEST_CASE("what a workspace did before does not change a bit of what it does now") {
  const auto model = random_model<Model>(1);
  const Objective objective{.dropout = 0.2, .balance = 0.1};
  Workspace<Model> used({3, 8}, {}, objective);
  gradient(*model, random_batch({3, 8}, V, 2), used);
  for (const Shape shape : {Shape{1, 1}, Shape{4, 5}, Shape{2, 8}, Shape{3, 8}}) {
    INFO(shape.batch << " x " << shape.length);
    const Batch batch = random_batch(shape, V, 4);
    Workspace<Model> fresh(shape, {}, objective);
    CHECK(first_difference(*gradient(*model, batch, used), *gradient(*model, batch, fresh)) == "");
  }
}

TEST_CASE("a workspace forgets batches of every shape, key, objective, task and choice of experts") {
  const auto model = random_model<Masks>(1);
  Rng rng(9);
  Workspace<Masks> used({4, 8});
  for (int call = 0; call < 30; ++call) {
    const auto coin = [&] { return rng.below(2) == 0; };
    const Shape shape{1 + static_cast<Index>(rng.below(4)), 1 + static_cast<Index>(rng.below(8))};
    Objective objective{.dropout = coin() ? 0.2 : 0,
                        .balance = 0.2,
                        .z = coin() ? 0.1 : 0,
                        .importance = coin() ? 0.1 : 0,
                        .load = coin() ? 0.1 : 0};
    if (coin()) objective.balance_rule = BalanceRule::huggingface;
    if (coin()) objective.balance_rule.group = Group::sequence;
    std::optional<Key> key;
    if (coin()) key = Key{rng.bits()};
    model->options.capacity_factor = coin() ? 0.6 : 0;
    model->options.min_capacity = 1;
    const bool some[] = {true, coin(), true, coin(), true}, restricted = coin();
    Batch batch = random_batch(shape, V, rng.bits());
    if (coin()) batch.targets[0] = -1;
    Workspace<Masks> fresh(shape, {}, objective);
    Loss loss[2];
    Masks grad[2];
    for (const int i : {0, 1}) {
      Workspace<Masks>& work = i == 0 ? used : fresh;
      work.objective = objective;
      work.allowed = restricted ? some : nullptr;
      work.task = call / 3 % 2;
      loss[i] = model->forward(batch, work, key);
      model->backward(batch, work, grad[i]);
    }
    CAPTURE(call, shape.batch, shape.length);
    CHECK(loss[0].cross_entropy == loss[1].cross_entropy);
    CHECK(loss[0].total(objective) == loss[1].total(objective));
    CHECK(first_difference(grad[0], grad[1]) == "");
  }
}

TEST_CASE("two batches can be in flight, each in its workspace") {
  const auto model = random_model<Model>(1);
  const Batch a = random_batch({2, 6}, V, 5), b = random_batch({2, 6}, V, 6);
  Workspace<Model> work_a({2, 6}), work_b({2, 6});
  model->forward(a, work_a);
  model->forward(b, work_b);
  Model grad_a;
  model->backward(a, work_a, grad_a);
  Workspace<Model> alone({2, 6});
  model->forward(a, alone);
  Model expected;
  model->backward(a, alone, expected);
  CHECK(first_difference(grad_a, expected) == "");
}

TEST_CASE("a workspace for inference gives the loss and logits of one for training, in less memory") {
  const auto model = random_model<Model>(1);
  const Batch batch = random_batch({2, 8}, V, 7);
  Workspace<Model> training({2, 8}), inference({2, 8}, {}, {}, Use::inference);
  const Loss a = model->forward(batch, training), b = model->forward(batch, inference);
  CHECK(a.cross_entropy == b.cross_entropy);
  CHECK(a.balance == b.balance);
  CHECK(same_bits(training.tape.head.logits[0], inference.tape.head.logits[0], 16 * V));
  const auto tapes = [](const Workspace<Model>& work) {
    Index tokens = 0;
    for (const auto& block : work.tape.trunk.blocks.first) tokens += block.normed1.count();
    for (const auto& block : work.tape.trunk.blocks.second) tokens += block.normed1.count();
    for (const auto& block : work.tape.trunk.shared.first) tokens += block.normed1.count();
    for (const auto& block : work.tape.trunk.shared.second) tokens += block.normed1.count();
    return tokens;
  };
  CHECK(tapes(training) == 3 * 16);
  CHECK(tapes(inference) == 2 * 16);  // one of each kind of block
}

TEST_CASE("a workspace for inspection has the tape of every layer, and no memory for backward") {
  const auto model = random_model<Model>(1);
  Model grad;
  const Batch batch = random_batch({2, 8}, V, 7);
  Workspace<Model> training({2, 8}), inspection({2, 8}, {}, {}, Use::inspection);
  CHECK(model->forward(batch, training).cross_entropy == model->forward(batch, inspection).cross_entropy);
  for (std::size_t i = 0; i < Model::Trunk::Blocks::bs; ++i) {
    const auto &a = training.tape.trunk.blocks.second[i].mixed,
               &b = inspection.tape.trunk.blocks.second[i].mixed;
    CHECK(same_bits(a[0], b[0], 16 * Model::D));
  }
  CHECK(inspection.scratch.trunk.d_stream[0].count() == 0);
  CHECK(
      contains(refusal([&] { model->backward(batch, inspection, grad); }), "a workspace made for training"));
}

TEST_CASE("a workspace without tokens, beyond the context or without threads is rejected") {
  CHECK(contains(refusal([] { Workspace<Model> work({0, 4}); }), "0 sequences of 4 tokens"));
  CHECK(contains(refusal([] { Workspace<Model> work({2, 0}); }), "both must be at least 1"));
  CHECK(contains(refusal([] { Workspace<Model> work({-1, -1}); }), "-1 sequences"));
  CHECK(contains(refusal([] { Workspace<Model> work({1, 9}); }), "9 tokens per sequence"));
  CHECK(contains(refusal([] { Workspace<Model> work({1, 9}); }), "context is 8"));
  CHECK(contains(refusal([] { Workspace<Model> work({1, 4}, {.threads = 0}); }), "0 threads"));
}

TEST_CASE(
    "a workspace that no batch or machine can fill is rejected, and so is an objective that makes no sense") {
  CHECK(contains(refusal([] { Workspace<Model> work({Index{1} << 62, 4}); }), "at most 2147483648 tokens"));
  CHECK(contains(refusal([] { Workspace<Model> work({1, 4}, {.threads = 1 << 30}); }), "at most 1024"));
  CHECK(contains(refusal([] { Workspace<Model> work({1, 4}, {}, {.balance = -1}); }),
                 "coefficient balance is -1"));
  CHECK(contains(refusal([] { Workspace<Model> work({1, 4}, {}, {.dropout = 1}); }), "dropout is 1"));
}
