// Which tokens a whole model attends to: windows by its Config, documents by its batch.
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
