// RetrievalGPT: gradients, causality of model and search, padding, threads, other sequences of a batch, and
// what it rejects.
#include <moegpt/testing/gradcheck.hpp>
#include <moegpt/testing/leak.hpp>

#include "support.hpp"

namespace {

constexpr Config trunk{.vocab = 9, .context = 8, .dim = 6, .layers = 2, .heads = 2, .hidden = 5};
constexpr Config encoder{
    .vocab = 9, .context = 4, .dim = 4, .layers = 1, .heads = 2, .hidden = 4, .mask = Mask::full};
constexpr RetrievalShape shape{.chunk = 3, .passages = 2, .length = 4};
template <class T>
using Model = RetrievalGPT<trunk, shape, encoder, TopKRouter<3, 2>, TopKRouter<3, 1>, T>;

}  // namespace

TEST_CASE("gradients of a model with cross-attended passages are its differences") {
  const Index lengths[] = {8, 6};
  for (const std::uint64_t seed : {1, 2, 3}) {
    const GradcheckReport report = gradcheck<RetrievalProbe<Model<double>>>(
        {.seed = seed,
         .pass = {.shape = {2, 8}, .key = Key{42}, .lengths = seed == 2 ? lengths : nullptr},
         .routing = {.objective = {.dropout = 0.2, .balance = 0.3, .z = 0.2}},
         .per_tensor = 12});
    CAPTURE(seed, report.where, report.message, report.worst);
    CHECK(report.ok);
    CHECK(report.worst <= 1e-6);
  }
}

TEST_CASE("neither model nor search looks ahead, and find_leak finds a search that does") {
  CHECK(find_leak<RetrievalProbe<Model<float>>>().text() == "no leak");
  CHECK(find_leak<RetrievalProbe<Model<float>, 1>>().leaks);
}

TEST_CASE("threads change no bits of a model with passages, nor do other sequences of the batch") {
  using Float = Model<float>;
  const auto model = random_model<Float>(7);
  const PassageStore store = random_store(12, trunk.vocab, 5);
  HashedNGrams retriever{.features = 32};
  const Batch batch = random_batch({3, 8}, trunk.vocab, 11);
  ChunkPassages passages;
  retrieve_chunks(store, retriever, batch, shape, passages, {.threads = 2});
  Float::Workspace one({3, 8}, {}, {.dropout = 0.1, .balance = 0.1}),
      two({3, 8}, {.threads = 2}, one.objective), alone({1, 8});
  Float grad1, grad2;
  CHECK(model->forward(batch, passages, one, Key{1}).cross_entropy ==
        model->forward(batch, passages, two, Key{1}).cross_entropy);
  model->backward(batch, passages, one, grad1);
  model->backward(batch, passages, two, grad2);
  CHECK(first_difference(grad1, grad2).empty());
  model->forward(batch, passages, one);
  for (std::ptrdiff_t b = 0; b < 3; ++b) {
    Batch own{{1, 8}};
    own.inputs.assign(batch.inputs.begin() + 8 * b, batch.inputs.begin() + 8 * (b + 1));
    own.targets.assign(batch.targets.begin() + 8 * b, batch.targets.begin() + 8 * (b + 1));
    ChunkPassages of_own;
    retrieve_chunks(store, retriever, own, shape, of_own);
    model->forward(own, of_own, alone);
    CHECK(same_bits(alone.tape.head.logits[0], one.tape.head.logits[8 * b], 8 * trunk.vocab));
  }
}

TEST_CASE("padding of texts and passages changes no loss and no gradient of a model with passages") {
  using Double = Model<double>;
  const auto model = random_model<Double>(3);
  const PassageStore store = random_store(12, trunk.vocab, 5);
  HashedNGrams retriever{.features = 32};
  Batch padded = random_batch({1, 8}, trunk.vocab, 5), bare{{1, 6}};
  padded.lengths = {6};
  bare.inputs.assign(padded.inputs.begin(), padded.inputs.begin() + 6);
  bare.targets.assign(padded.targets.begin(), padded.targets.begin() + 6);
  Double::Workspace work({1, 8}, {}, {.balance = 0.1});
  const auto gradient_of = [&](const Batch& batch, Double& grad, int padding) {
    ChunkPassages passages;
    retrieve_chunks(store, retriever, batch, shape, passages);
    for (std::size_t p = 0; p < passages.lengths.size(); ++p)
      for (std::size_t i = static_cast<std::size_t>(passages.lengths[p]); i < 4; ++i)
        passages.ids[4 * p + i] = padding;
    const double loss = model->forward(batch, passages, work).total(work.objective);
    model->backward(batch, passages, work, grad);
    return loss;
  };
  Double with_padding, with_other, without;
  const double loss = gradient_of(padded, with_padding, 0);
  padded.inputs[6] = padded.inputs[6] == 0 ? 1 : 0;
  CHECK(gradient_of(padded, with_other, 3) == loss);
  CHECK(first_difference(with_padding, with_other).empty());
  CHECK(gradient_of(bare, without, 0) == Approx(loss).epsilon(1e-13));
  double worst = 0;
  for_each_weight(
      [&](const auto& a, const auto& b) {
        for (Index i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
      },
      with_padding, without);
  CHECK(worst < 1e-12);
}

TEST_CASE("without passages the model is a GPT of its trunk and head") {
  using Double = Model<double>;
  using Plain = GPT<trunk, TopKRouter<3, 2>, double>;
  const auto model = random_model<Double>(9);
  Plain plain;
  plain.trunk = model->trunk, plain.head = model->head;
  const Batch batch = random_batch({2, 8}, trunk.vocab, 5);
  Double::Workspace work({2, 8}, {}, {.balance = 0.1});
  Plain::Workspace plain_work({2, 8}, {}, {.balance = 0.1});
  const double loss = plain.forward(batch, plain_work).total(work.objective);
  CHECK(model->forward(batch, {}, work).total(work.objective) == loss);
  ChunkPassages no_passage;
  no_passage.ids.assign(2 * 2 * 2 * 4, 0), no_passage.lengths.assign(2 * 2 * 2, 0);
  CHECK(model->forward(batch, no_passage, work).cross_entropy ==
        plain.forward(batch, plain_work).cross_entropy);
}

TEST_CASE("a model with passages rejects passages of another batch, ids out of range and forbidden experts") {
  const auto model = random_model<Model<float>>(1);
  const Batch batch = random_batch({2, 8}, trunk.vocab, 5);
  HashedNGrams retriever{.features = 32};
  ChunkPassages passages;
  retrieve_chunks(random_store(12, trunk.vocab, 5), retriever, batch, shape, passages);
  Model<float>::Workspace work({2, 8});
  Model<float> grad;
  const auto forward = [&] { model->forward(batch, passages, work); };
  forward();
  CHECK(contains(refusal([&] { model->backward(batch, {}, work, grad); }), "another batch"));
  passages.ids[0] = 9;
  CHECK(contains(refusal(forward), "passage 0 has token id 9, expected 0 .. 8"));
  passages.ids[0] = 0, passages.lengths[0] = 5;
  CHECK(contains(refusal(forward), "has length 5, expected 0 .. 4"));
  passages.lengths[0] = 1;
  const bool none[3] = {};
  work.encoder_allowed = none;
  CHECK(contains(refusal(forward), "0 of 3 experts may be chosen"));
  work.encoder_allowed = nullptr;
  passages.lengths.pop_back();
  CHECK(contains(refusal(forward), "expected 8 of 4 each"));
}

TEST_CASE("experts of the encoder can be assigned to sources of knowledge") {
  const auto model = random_model<Model<float>>(1);
  const Batch batch = random_batch({2, 8}, trunk.vocab, 5);
  const PassageStore store = random_store(12, trunk.vocab, 5);
  HashedNGrams retriever{.features = 32};
  const SourceExperts<TopKRouter<3, 1>> experts{{0}, {2}};
  Model<float>::Workspace work({2, 8});
  for (const int source : {0, 1}) {
    ChunkPassages passages;
    ChunkSearch search;
    retrieve_chunks(store, retriever, batch.inputs, batch.shape, {}, shape, passages, search, {},
                    [&](const ChunkOf&, Index i) { return store.source(i) != source; });
    work.encoder_allowed = experts.of(source);
    model->forward(batch, passages, work);
    work.tape.encoder.blocks.at_layer(0, [&](const auto& block) {
      if constexpr (requires { block.mixture.plan; }) {
        CHECK(block.mixture.plan.load(source == 0 ? 0 : 2) > 0);
        CHECK(block.mixture.plan.load(source == 0 ? 2 : 0) + block.mixture.plan.load(1) == 0);
      }
    });
  }
  CHECK(contains(refusal([&] { experts.of(2); }), "source 2, expected 0 .. 1"));
}
