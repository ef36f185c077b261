#include <moegpt/train/adam.hpp>

#include "support.hpp"

#include <limits>

namespace {

constexpr Config config{
    .vocab = 11, .context = 8, .dim = 12, .layers = 2, .heads = 3, .hidden = 10, .head_bias = true};
using Noisy = GPT<config, NoisyTopKRouter<4, 2, NoisyTopK{.bias = true}>>;
using Plain = GPT<config, TopKRouter<4, 2>>;
using PostNorm = GPT<[] {
  Config c = config;
  c.residual = Residual::post_norm;
  return c;
}(),
                     TopKRouter<4, 2>>;
using NoNorms = GPT<[] {
  Config c = config;
  c.residual = Residual::no_norm;
  return c;
}(),
                    TopKRouter<4, 2>>;
constexpr int V = 11;

// The arguments of forward, all valid until a test spoils one.
struct Door {
  std::unique_ptr<Noisy> model = random_model<Noisy>(1);
  Batch batch = random_batch({2, 3}, V, 2);
  Workspace<Noisy> work{{2, 6}};

  std::string refusal_of_forward() {
    return refusal([&] { model->forward(batch, work); });
  }
};

template <class Model>
std::vector<float> logits(const Model& model, const std::vector<int>& ids, std::optional<Key> key) {
  const Shape shape{1, std::ssize(ids)};
  Workspace<Model> work(shape, {}, {.dropout = 0.2});
  model.forward({shape, ids, ids}, work, key);
  const float* first = work.tape.head.logits[0];
  return {first, first + shape.tokens() * V};
}

template <class Model>
void require_causal(const ModelOptions& options, std::optional<Key> key) {
  const auto model = random_model<Model>(3);
  model->options = options;
  const std::vector<int> ids = random_ids(8, V, 4);
  const std::vector<float> before = logits(*model, ids, key);
  for (Index t = 1; t < 8; ++t) {
    std::vector<int> changed = ids;
    for (Index i = t; i < 8; ++i)
      changed[static_cast<std::size_t>(i)] = (ids[static_cast<std::size_t>(i)] + 1 + t) % V;
    INFO("tokens from " << t << " on are others");
    const std::vector<float> after = logits(*model, changed, key);
    REQUIRE(same_bits(before.data(), after.data(), t * V));
    REQUIRE_FALSE(same_bits(before.data() + t * V, after.data() + t * V, V));
  }
}

}  // namespace

TEST_CASE("later tokens change no bit of earlier logits, also under capacity, noise and dropout") {
  for (const ModelOptions& options : {ModelOptions{}, ModelOptions{.capacity_factor = 0.5}}) {
    require_causal<Plain>(options, {});
    require_causal<Plain>(options, Key{5});
    require_causal<Noisy>(options, {});
    require_causal<Noisy>(options, Key{5});
    require_causal<PostNorm>(options, Key{5});
    require_causal<NoNorms>(options, Key{5});
  }
}

TEST_CASE("capacity drops pairs and dropless keeps all") {
  Door d;
  d.model->forward(d.batch, d.work);
  for (const auto& block : d.work.tape.trunk.blocks.second) CHECK(block.mixture.plan.dropped() == 0);
  d.model->options.capacity_factor = 0.4;  // 6 tokens x 2 / 4 experts x 0.4: each takes one
  d.model->forward(d.batch, d.work);
  for (const auto& block : d.work.tape.trunk.blocks.second)
    for (int e = 0; e < 4; ++e) CHECK(block.mixture.plan.load(e) <= 1);
}

TEST_CASE(
    "a batch in which an expert has less than one slot is rejected, but not the end of a text nor a "
    "generation") {
  const auto model = random_model<Plain>(1);
  model->options.capacity_factor = 0.2;  // 6 tokens x 2 / 4 experts x 0.2 = 0.6
  Workspace<Plain> work{{2, 3}};
  const Batch batch = random_batch({2, 3}, V, 2);
  const std::string text = refusal([&] { model->forward(batch, work); });
  CHECK(contains(text,
                 "capacity_factor 0.2 gives an expert 0.6 slots (0.2 * 6 tokens * 2 choices / 4 experts)"));
  CHECK(contains(text, "raise capacity_factor to 0.333333 or more, set min_capacity to 1 or more"));
  for (const Shape end : {Shape{1, 2}, Shape{2, 2}, Shape{1, 3}})  // fewer tokens, or fewer sequences
    CHECK_NOTHROW(model->forward(random_batch(end, V, 3), work));
  Plain::Cache cache;
  CHECK_NOTHROW(model->logits(std::vector{1, 2, 3}, work, cache));
  CHECK_NOTHROW(model->logits(std::vector{1}, work, cache));
  model->options.min_capacity = 1;
  CHECK_NOTHROW(model->forward(batch, work));
}

TEST_CASE("without a key a forward repeats itself, and with another key it does not") {
  const auto model = random_model<Noisy>(3);
  const std::vector<int> ids = random_ids(8, V, 4);
  CHECK(logits(*model, ids, {}) == logits(*model, ids, {}));
  CHECK(logits(*model, ids, Key{1}) == logits(*model, ids, Key{1}));
  CHECK(logits(*model, ids, Key{1}) != logits(*model, ids, Key{2}));
  CHECK(logits(*model, ids, Key{1}) != logits(*model, ids, {}));
}

TEST_CASE("the total loss weighs the routers' losses by the objective") {
  const Loss loss{{.balance = 3, .z = 5}, 2};
  CHECK(loss.total({}) == 2);
  CHECK(loss.total({.balance = 0.5, .z = 0.1}) == Approx(4).epsilon(1e-15));
}

TEST_CASE("every loss of the routers has its own coefficient in the total") {
  const Loss loss{{.importance = 1, .load = 10, .variance = 100, .count = 1000}};
  CHECK(loss.total({.importance = 2}) == 2);
  CHECK(loss.total({.load = 2}) == 20);
  CHECK(loss.total({.variance = 2}) == 200);
  CHECK(loss.total({.count = 2}) == 2000);
}

TEST_CASE(
    "the model's balance loss is one for all layers where the rule says so, in training and in inference") {
  Door d;
  for (const BalanceRule& rule : {BalanceRule::huggingface, BalanceRule::megablocks, BalanceRule::deepseek}) {
    const Objective objective{.balance = 1, .balance_rule = rule};
    Noisy::Workspace training{d.batch.shape, {}, objective},
        inference{d.batch.shape, {}, objective, Use::inference};
    const Loss loss = d.model->forward(d.batch, training);
    CHECK(d.model->forward(d.batch, inference).balance == loss.balance);
    double parts = 0;
    for_each_mixture(*d.model, training, [&](int, const auto&, const auto& tape) { parts += tape.balance; });
    CHECK(parts == Approx(loss.balance).epsilon(1e-6));                               // float
    for (auto& block : d.model->trunk.blocks.second) set_zero(block.mixture.router);  // every score 1/4
    CHECK(d.model->forward(d.batch, training).balance == Approx(balanced_value(rule, 2, 2)).epsilon(1e-6));
    d = Door{};
  }
}

TEST_CASE("a model that sends all tokens everywhere is balanced: one per mixture") {
  Door d;
  for (auto& block : d.model->trunk.blocks.second) set_zero(block.mixture.router);  // every score 1/4
  CHECK(d.model->forward(d.batch, d.work).balance == Approx(2).epsilon(1e-6));
}

TEST_CASE("a position beyond the batch has no gradient, and a token that did not occur has none") {
  Door d;
  Noisy grad;
  d.batch.inputs = {0, 1, 2, 2, 1, 0};
  d.model->forward(d.batch, d.work);
  d.model->backward(d.batch, d.work, grad);
  for (int position = 0; position < 8; ++position)
    CHECK(grad.trunk.position_embedding.weight.eigen().row(position).isZero(0) == (position >= 3));
  for (int id = 0; id < V; ++id)
    CHECK(grad.trunk.token_embedding.weight.eigen().row(id).isZero(0) == (id > 2));
}

TEST_CASE(
    "a weight whose gradient is released stays as it is, and the others train as if it were not frozen") {
  Door d, frozen;
  Noisy grad, partial;
  const auto release = [](auto& layer) { for_each_weight([](auto& w) { w.release(); }, layer); };
  release(partial.trunk.token_embedding);
  release(partial.trunk.norm);
  release(partial.head);
  release(partial.trunk.blocks.second[0].attention);
  release(partial.trunk.blocks.second[1].norm1);
  release(partial.trunk.blocks.second[1].mixture.router);
  release(partial.trunk.blocks.second[1].mixture.experts[2]);
  const auto before = std::make_unique<Noisy>(*d.model);
  Adam<Noisy> adam, adam_partial;
  d.model->forward(d.batch, d.work, Key{1});
  d.model->backward(d.batch, d.work, grad);
  frozen.model->forward(frozen.batch, frozen.work, Key{1});
  frozen.model->backward(frozen.batch, frozen.work, partial);
  adam.step(*d.model, grad);
  adam_partial.step(*frozen.model, partial);

  int released = 0;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w, const auto& old, const auto& trained, const auto& g) {
        INFO(path);
        const auto& expected = g.empty() ? old : trained;
        CHECK(same_bits(w.data(), expected.data(), w.size()));
        released += g.empty();
      },
      std::as_const(*frozen.model), std::as_const(*before), std::as_const(*d.model), std::as_const(partial));
  CHECK(released == 20);
}

TEST_CASE("a token id that the model does not have is rejected by its place") {
  Door d;
  d.batch.inputs[3] = V;
  CHECK(contains(d.refusal_of_forward(), "input 3 has token id 11, expected 0 .. 10"));
  d.batch.inputs[3] = -1;
  CHECK(contains(d.refusal_of_forward(), "input 3 has token id -1, expected 0 .. 10"));
  d.batch.inputs[3] = 0;
  d.batch.targets[5] = V;
  CHECK(contains(d.refusal_of_forward(), "target 5 has token id 11, expected"));
  d.batch.targets[5] = -1;  // ignored
  CHECK(d.refusal_of_forward() == "");
}

TEST_CASE("too few or too many ids or targets are rejected with both numbers") {
  Door d;
  d.batch.targets.pop_back();
  CHECK(contains(d.refusal_of_forward(), "the batch has 5 targets for 6 tokens"));
  d.batch.targets.assign(6, 0);
  d.batch.inputs.push_back(0);
  CHECK(contains(d.refusal_of_forward(), "the batch has 7 ids for 2 x 3 tokens"));
}

TEST_CASE("a batch of nothing is rejected") {
  Door d;
  for (const Shape shape : {Shape{0, 3}, Shape{2, 0}, Shape{0, 0}}) {
    d.batch = {shape, {}, {}};
    CHECK(contains(d.refusal_of_forward(), "both must be at least 1"));
  }
  d.batch = random_batch({-2, -3}, V, 2);
  CHECK(contains(d.refusal_of_forward(), "a batch of -2 sequences of -3 tokens"));
}

TEST_CASE(
    "a sequence longer than the context and a batch larger than the workspace are rejected with both sizes") {
  Door d;
  d.batch = random_batch({1, 9}, V, 2);
  CHECK(contains(d.refusal_of_forward(), "a sequence of 9 tokens, but the model's context is 8"));
  d.batch = random_batch({3, 6}, V, 2);
  CHECK(contains(d.refusal_of_forward(), "a batch of 3 x 6 tokens, but the workspace was made for 2 x 6"));
}

TEST_CASE("a loss that is not finite is an error that names the first weight that is not") {
  Door d;
  const auto failure = [&] {
    return refusal<std::runtime_error>([&] { d.model->forward(d.batch, d.work); });
  };
  d.model->trunk.norm.weight[7] = std::numeric_limits<float>::quiet_NaN();
  CHECK(contains(failure(), "the loss is nan"));
  CHECK(contains(failure(), "norm.weight[7] is not finite"));
  d.model->trunk.blocks.second[1].attention.key.weight[5] = std::numeric_limits<float>::infinity();
  CHECK(contains(failure(), "blocks.1.attention.key.weight[5]"));
  d.model->trunk.blocks.second[0].mixture.router.logits.gate.weight[2] =
      std::numeric_limits<float>::quiet_NaN();
  CHECK(contains(failure(), "blocks.0.moe.router.gate.weight[2]"));
}

TEST_CASE("a loss that overflows although all weights are finite says so") {
  Door d;
  for (float& w : d.model->head.weight) w = 3e38f;
  CHECK(contains(refusal<std::runtime_error>([&] { d.model->forward(d.batch, d.work); }),
                 "lower the learning rate"));
}

TEST_CASE("backward rejects another batch than its forward's, and a workspace made for inference") {
  Door d;
  Noisy grad;
  d.model->forward(d.batch, d.work);
  const Batch copy = d.batch;
  CHECK(contains(refusal([&] { d.model->backward(copy, d.work, grad); }), "another batch"));
  Workspace<Noisy> inference({2, 6}, {}, {}, Use::inference);
  d.model->forward(d.batch, inference);
  CHECK(contains(refusal([&] { d.model->backward(d.batch, inference, grad); }), "made for training"));
  Workspace<Noisy> fresh({2, 6});
  CHECK(contains(refusal([&] { d.model->backward(d.batch, fresh, grad); }),
                 "no forward of this workspace has returned"));
}

TEST_CASE("logits reject an id that the model does not have") {
  Door d;
  Noisy::Cache cache;
  CHECK(contains(refusal([&] { d.model->logits(std::vector<int>{1, 2, V}, d.work, cache); }),
                 "input 2 has token id 11, expected 0 .. 10"));
}

TEST_CASE("logits of a model with a weight that is not finite are an error that names it") {
  Door d;
  Noisy::Cache cache;
  d.model->trunk.norm.weight[7] = std::numeric_limits<float>::quiet_NaN();
  CHECK(contains(refusal<std::runtime_error>([&] { d.model->logits(std::vector<int>{1, 2}, d.work, cache); }),
                 "norm.weight[7] is not finite"));
}

TEST_CASE("a predicate puts mixtures at the layers that it names, and dense layers have their own width") {
  constexpr Config some{.vocab = V,
                        .context = 8,
                        .dim = 12,
                        .layers = 5,
                        .heads = 3,
                        .hidden = 4,
                        .dense_hidden = 20,
                        .mixture_at = [](int layer) { return layer == 1 || layer == 4; }};
  GPT<some, TopKRouter<4, 2>> model;
  int moe = 0, ffn = 0;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w) {
        if (path.ends_with("experts.0.up.weight")) {
          CHECK((path.starts_with("blocks.1.moe.") || path.starts_with("blocks.4.moe.")));
          CHECK(w.rows == 4);
          ++moe;
        } else if (path.ends_with("ffn.up.weight")) {
          CHECK(w.rows == 20);
          ++ffn;
        }
      },
      model);
  CHECK(moe == 2);
  CHECK(ffn == 3);
}

TEST_CASE(
    "only a pre-norm model has a norm after its last block, and a model without norms has none at all") {
  const auto norms = [](const auto& model) {
    std::vector<std::string> found;
    for_each_named_weight(
        [&](const std::string& path, Kind, const auto&) {
          if (path.find("norm") != std::string::npos) found.push_back(path);
        },
        model);
    return found;
  };
  constexpr auto with = [](Residual residual) {
    return Config{.vocab = V,
                  .context = 8,
                  .dim = 12,
                  .layers = 1,
                  .heads = 3,
                  .norm = Norm::rms,
                  .residual = residual};
  };
  const std::vector<std::string> both{"blocks.0.norm1.weight", "blocks.0.norm2.weight"};
  CHECK(norms(GPT<with(Residual::post_norm), TopKRouter<4, 2>>()) == both);
  CHECK(norms(GPT<with(Residual::no_norm), TopKRouter<4, 2>>()).empty());
  CHECK(norms(GPT<with(Residual::pre_norm), TopKRouter<4, 2>>()).back() == "norm.weight");
}

TEST_CASE("options and objectives that make no sense are rejected in the step that reads them") {
  auto model = random_model<Plain>(1);
  Workspace<Plain> work({2, 4});
  const Batch batch = random_batch({2, 4}, V, 2);
  model->forward(batch, work);
  model->options.norm_epsilon = 0;
  CHECK(contains(refusal([&] { model->forward(batch, work); }), "norm_epsilon is 0"));
  model->options = {.attention_scale = -1};
  CHECK(contains(refusal([&] { model->forward(batch, work); }), "attention_scale is -1"));
  model->options = {};
  work.objective.z = std::nan("");
  CHECK(contains(refusal([&] { model->forward(batch, work); }), "coefficient z is nan"));
  work.objective = {.dropout = 1};
  CHECK(contains(refusal([&] { model->forward(batch, work); }), "dropout is 1"));
}

TEST_CASE("backward needs a forward with its batch that has returned") {
  auto model = random_model<Plain>(1);
  Plain grad;
  Workspace<Plain> work({2, 4});
  Batch batch = random_batch({2, 4}, V, 2);
  const auto backward = [&] { return refusal([&] { model->backward(batch, work, grad); }); };
  CHECK(contains(backward(), "no forward of this workspace has returned"));
  model->forward(batch, work);
  CHECK(backward() == "");
  CHECK(backward() == "");  // a second one adds the same again
  std::vector<int> other = batch.targets;
  std::swap(other, batch.targets);
  CHECK(contains(backward(), "other targets"));
  std::swap(other, batch.targets);
  const float weight = model->head.weight[0];
  model->head.weight[0] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(model->forward(batch, work), std::runtime_error);
  model->head.weight[0] = weight;
  CHECK(contains(backward(), "since one failed"));
  model->forward(batch, work);
  CHECK(backward() == "");
}

TEST_CASE("backward after logits is rejected, though they read the same ids") {
  auto model = random_model<Plain>(1);
  Plain grad;
  Workspace<Plain> work({1, 4});
  const Batch batch = random_batch({1, 4}, V, 2);
  model->forward(batch, work);
  Plain::Cache cache;
  model->logits(batch.inputs, work, cache);
  CHECK(contains(refusal([&] { model->backward(batch, work, grad); }), "after logits"));
}
