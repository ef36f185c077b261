// Which tokens a whole model attends to: windows by its Config, documents by its batch.
#include <moegpt/generate/sequence_batch.hpp>
#include <moegpt/testing/gradcheck.hpp>

#include "support.hpp"

namespace {

constexpr Config config{.vocab = 11,
                        .context = 24,
                        .dim = 12,
                        .layers = 2,
                        .heads = 2,
                        .hidden = 8,
                        .window = 4,
                        .positions = Positions::rotary};
constexpr Config without_window = [] {
  Config c = config;
  c.window = 0;
  return c;
}();

// A context of which a cache of all positions would take a gigabyte.
constexpr Config long_context(Local local, int window, LayerSet window_at = {}) {
  Config c = config;
  c.context = 1 << 19, c.window = window, c.local = local, c.window_at = window_at, c.moe_every = 2;
  return c;
}

// Logits [tokens, V] of a batch whose targets are its inputs.
template <class Model>
std::vector<float> logits(const Model& model, Batch batch) {
  batch.targets = batch.inputs;
  Workspace<Model> work(batch.shape);
  model.forward(batch, work);
  const float* first = work.tape.head.logits[0];
  return {first, first + batch.shape.tokens() * Model::V};
}
template <class Model>
bool same_token(const std::vector<float>& a, const std::vector<float>& b, Index token) {
  return std::equal(a.begin() + token * Model::V, a.begin() + (token + 1) * Model::V,
                    b.begin() + token * Model::V);
}

}  // namespace

TEST_CASE("with a window w a token of L layers depends on the L (w - 1) tokens before it, and on no others") {
  using Model = GPT<config, TopKRouter<4, 2>>;
  const auto model = random_model<Model>(1);
  const Batch batch = random_batch({1, 24}, 11, 2);
  Batch other = batch;
  other.inputs[5] = (other.inputs[5] + 1) % 11;
  const auto a = logits(*model, batch), b = logits(*model, other);
  for (Index t = 0; t < 24; ++t) {
    CAPTURE(t);
    CHECK(same_token<Model>(a, b, t) == !(t >= 5 && t <= 5 + 2 * 3));
  }
}

TEST_CASE("a window has the same bits with a key-value cache, in pieces and token by token") {
  using Model = GPT<config, TopKRouter<4, 2>>;
  const auto model = random_model<Model>(1);
  const Batch batch = random_batch({1, 24}, 11, 2);
  const auto whole = logits(*model, batch);
  for (const Index piece : {1, 5, 24}) {
    Workspace<Model> work({1, piece}, {}, {}, Use::inference);
    Model::Cache cache;
    std::vector<float> pieces;
    for (Index first = 0; first < 24; first += piece) {
      const Index count = std::min(piece, 24 - first);
      const auto z =
          model->logits({batch.inputs.data() + first, static_cast<std::size_t>(count)}, work, cache);
      pieces.insert(pieces.end(), z[0], z[0] + count * Model::V);
    }
    CHECK(pieces == whole);
  }
}

TEST_CASE("a token of one document does not depend on the others of its sequence") {
  using Model = GPT<without_window, TopKRouter<4, 2>>;
  const auto model = random_model<Model>(1);
  Batch batch = random_batch({2, 12}, 10, 2);
  for (const std::size_t end : {4, 6, 14}) batch.inputs[end] = 10;
  batch.documents = documents_of(batch.inputs, batch.shape, 10);
  Batch other = batch;
  other.inputs[2] = (other.inputs[2] + 1) % 10;
  const auto a = logits(*model, batch), b = logits(*model, other);
  for (Index t = 0; t < 24; ++t) {
    CAPTURE(t);
    CHECK(same_token<Model>(a, b, t) == !(t >= 2 && t <= 4));
  }
  batch.documents.pop_back();
  CHECK(refusal([&] { logits(*model, batch); }).find("23 documents for 24 tokens") != std::string::npos);
}

TEST_CASE("gradients of a model with windows, and of one whose batch has documents, agree with differences") {
  CHECK(gradcheck<GPT<config, TopKRouter<4, 2>, double>>({.per_tensor = 8}).message.empty());
  using Model = GPT<without_window, TopKRouter<4, 2>, double>;
  Batch batch = random_batch({2, 9}, 10, 2);
  batch.inputs[3] = batch.inputs[12] = 10;
  batch.documents = documents_of(batch.inputs, batch.shape, 10);
  auto model = random_model<Model>(3), grad = std::make_unique<Model>();
  Workspace<Model> work(batch.shape);
  model->forward(batch, work);
  model->backward(batch, work, *grad);
  auto& w = model->trunk.blocks.second[0].attention.value.weight;
  const auto& g = grad->trunk.blocks.second[0].attention.value.weight;
  for (const Index i : {0, 17, 101}) {
    const double kept = w[i], step = 1e-6;
    w[i] = kept + step;
    const double up = model->forward(batch, work).total({});
    w[i] = kept - step;
    const double down = model->forward(batch, work).total({});
    w[i] = kept;
    CHECK(g[i] == Approx((up - down) / (2 * step)).epsilon(1e-6).margin(1e-9));
  }
}

TEST_CASE("generation far beyond a window has the bits of the batched forward, with a cache of the window") {
  const auto require = [](auto which) {
    using Model = typename decltype(which)::type;
    const auto model = random_model<Model>(1);
    constexpr Index length = 700;
    const Batch batch = random_batch({2, length}, 11, 2);
    const auto whole = logits(*model, batch);
    // pieces shorter and longer than the step of the cache, single tokens, and a sequence that waits
    const Index calls[][2] = {{70, 3}, {1, 1}, {1, 200}, {30, 1}, {200, 0}, {0, 100}, {1, 1}, {64, 65}};
    Workspace<Model> work({2, 300}, {2}, {}, Use::inference);
    typename Model::Cache cache(2);
    for (int round = 0; cache.length() < length - 200; ++round) {
      const auto& lengths = calls[round % 8];
      const Index longest = std::max(lengths[0], lengths[1]);
      std::vector<int> ids(static_cast<std::size_t>(2 * longest), 10);  // padding
      for (Index b = 0; b < 2; ++b)
        std::copy_n(batch.inputs.begin() + b * length + cache.length(b), lengths[b],
                    ids.begin() + b * longest);
      const std::vector<Index> before(cache.lengths().begin(), cache.lengths().end());
      const auto z = model->logits(ids, lengths, work, cache);
      for (Index b = 0; b < 2; ++b)
        REQUIRE(same_bits(z[b * longest],
                          whole.data() + (b * length + before[static_cast<std::size_t>(b)]) * Model::V,
                          lengths[b] * Model::V));
    }
    CHECK_FALSE(cache.can_truncate(0, 20));
  };
  SECTION("sliding") { require(std::type_identity<GPT<long_context(Local::window, 5), TopKRouter<4, 2>>>{}); }
  SECTION("two blocks") {
    require(std::type_identity<GPT<long_context(Local::two_blocks, 9), TopKRouter<4, 2>>>{});
  }
}

TEST_CASE("with a window in one layer of two, generation has the bits of the batched forward") {
  constexpr Config c = [] {
    Config some = long_context(Local::window, 5, {0});
    some.context = 400;
    return some;
  }();
  using Model = GPT<c, TopKRouter<4, 2>>;
  const auto model = random_model<Model>(1);
  const Batch batch = random_batch({1, 400}, 11, 2);
  const auto whole = logits(*model, batch);
  Workspace<Model> work({1, 80}, {}, {}, Use::inference);
  Model::Cache cache;
  for (Index first = 0; first < 400; first += 80) {
    const auto z = model->logits({batch.inputs.data() + first, 80}, work, cache);
    REQUIRE(same_bits(z[0], whole.data() + first * Model::V, 80 * Model::V));
  }
  Batch other = batch;
  other.inputs[5] = (other.inputs[5] + 1) % 11;
  const auto changed = logits(*model, other);
  CHECK_FALSE(same_token<Model>(whole, changed, 300));  // layer 1 sees everything
}

TEST_CASE("sequences with a window can be copied, gathered, and truncated as far as their cache reaches") {
  using Model = GPT<long_context(Local::window, 5), TopKRouter<4, 2>>;
  const auto model = random_model<Model>(3);
  const std::vector<int> ids = random_ids(400, 11, 4);
  const auto whole = logits(*model, {{1, 400}, ids, {}});
  const auto at = [&](Index token) { return whole.data() + token * Model::V; };
  const auto part = [&](Index first, Index count) {
    return std::span(ids.data() + first, static_cast<std::size_t>(count));
  };
  Workspace<Model> work({3, 300}, {}, {}, Use::inference);
  Model::Cache one, cache(3);
  model->logits(part(0, 300), work, one);
  cache.copy(one, 0, 2);
  cache.gather(std::vector<Index>{2, 0, 2});
  cache.gather(std::vector<Index>{1, 2, 0});  // lengths 0, 300, 300
  CHECK((cache.length(0) == 0 && cache.length(1) == 300 && cache.length(2) == 300));
  const std::vector<int> next{ids[0], ids[300], ids[300]};
  const auto z = model->logits(next, work, cache);
  CHECK(same_bits(z[0], at(0), Model::V));
  for (const Index b : {1, 2}) CHECK(same_bits(z[b], at(300), Model::V));

  one.truncate(0, 300 - AttentionShape::spare);
  const auto again = model->logits(part(236, 164), work, one);
  CHECK(same_bits(again[0], at(236), 164 * Model::V));
  const std::string says = refusal([&] { one.truncate(0, 100); });
  CHECK(
      says.find("KVCache::truncate got length 100 for sequence 0, but its layers with a window no longer") !=
      std::string::npos);
  CHECK(one.length() == 400);
  CHECK_FALSE(one.can_truncate(0, 100));
  CHECK(one.can_truncate(0, 0));
  one.truncate(0, 0);
  CHECK(same_bits(model->logits(part(0, 300), work, one)[0], at(0), 300 * Model::V));
}

TEST_CASE("after a call that threw, a cache of windows continues, or states that its sequence is lost") {
  using Model = GPT<long_context(Local::window, 5), TopKRouter<4, 2>>;
  const auto model = random_model<Model>(3);
  const std::vector<int> ids = random_ids(300, 11, 4);
  const auto whole = logits(*model, {{1, 300}, ids, {}});
  Workspace<Model> work({1, 200}, {}, {}, Use::inference);
  Model::Cache cache;
  const auto compute = [&](Index first, Index count) {
    return model->logits({ids.data() + first, static_cast<std::size_t>(count)}, work, cache);
  };
  const auto fail = [&](Index first, Index count) {
    float& weight = model->trunk.norm.weight[7];
    const float held = std::exchange(weight, std::numeric_limits<float>::quiet_NaN());
    CHECK_THROWS_AS(compute(first, count), NotFinite);
    weight = held;
  };
  compute(0, 100);
  fail(100, 60);
  CHECK(same_bits(compute(100, 60)[0], whole.data() + 100 * Model::V, 60 * Model::V));
  cache.truncate(0, 100);
  fail(100, 200);
  CHECK(refusal([&] { compute(100, 1); }).find("a call that threw has overwritten") != std::string::npos);
  cache.clear();
  CHECK(same_bits(compute(0, 100)[0], whole.data(), 100 * Model::V));
}

TEST_CASE("a sequence batch rereads a prompt whose window its cache has left behind") {
  using Model = GPT<long_context(Local::window, 5), TopKRouter<4, 2>>;
  const auto model = random_model<Model>(3);
  const std::vector<int> ids = random_ids(400, 11, 4);
  const auto whole = logits(*model, {{1, 400}, ids, {}});
  SequenceBatch<Model> batch(*model, {.batch = 2, .piece = 50});
  const auto prompt = [&](std::size_t count) { return std::span(ids).first(count); };
  for (const std::size_t count : {400, 100, 390}) {
    batch.clear(0);
    const auto z = batch.read(0, prompt(count));
    CHECK(same_bits(z[0], whole.data() + static_cast<Index>(count - 1) * Model::V, Model::V));
  }
}
