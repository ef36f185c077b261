// Encoder-decoder models: gradients against differences, PyTorch's nn.Transformer, padding, and what a batch
// of two sides may be.
#include <moegpt/io/safetensors.hpp>
#include <moegpt/model/encoder_decoder.hpp>
#include <moegpt/testing/gradcheck.hpp>
#include <moegpt/train/adam.hpp>

#include "../support/temporary_folder.hpp"
#include "support.hpp"

namespace {

constexpr Config source{.vocab = 7,
                        .context = 6,
                        .dim = 8,
                        .layers = 2,
                        .heads = 2,
                        .hidden = 5,
                        .mask = Mask::full,
                        .activation = Activation::gelu};
constexpr Config target{.vocab = 9, .context = 5, .dim = 6, .layers = 2, .heads = 3, .hidden = 4};

constexpr Config with(Config c, Residual residual) {
  c.residual = residual;
  return c;
}
// nn.Transformer: both sides have one width, ReLU networks and biases everywhere.
constexpr Config as_torch(Config c, Residual residual) {
  c.dim = 8, c.heads = 2, c.hidden = 5;
  c.residual = residual, c.activation = Activation::relu, c.attention_bias = true;
  return c;
}
template <Residual R, class T = double>
using Torch = EncoderDecoder<as_torch(source, R), Dense, as_torch(target, R), Dense, T>;
template <Residual R, class T = double>
using Mixed = EncoderDecoder<with(source, R), TopKRouter<3, 2>, with(target, R), TopKRouter<4, 2>, T>;
using Both = Mixed<Residual::pre_norm>;

PairBatch random_pairs(Index batch, std::uint64_t seed) {
  return {random_batch({batch, source.context}, source.vocab, seed),
          random_batch({batch, target.context}, target.vocab, seed + 1)};
}

// An encoder-decoder model as one of a single batch, for gradcheck: its source is the batch's ids in reverse.
template <class Model>
struct PairProbe {
  using Scalar = typename Model::Scalar;
  static constexpr Config config = Model::config;
  mutable Model model;
  ModelOptions options;
  static constexpr auto fields() { return Fields{Field{"", &PairProbe::model}}; }

  struct Workspace {
    Objective objective;
    typename Model::Workspace pair;
    PairBatch batch{};
    Workspace(Shape shape, Exec exec, Objective o)
        : objective(o), pair({shape.batch, source.context}, shape, exec, o) {}
  };
  Loss forward(const Batch& batch, Workspace& work, std::optional<Key> key) const {
    PairBatch& pairs = work.batch;
    pairs.target = batch;
    pairs.source = {{batch.shape.batch, source.context}};
    for (Index n = 0; n < pairs.source.shape.tokens(); ++n)
      pairs.source.inputs.push_back(batch.inputs[batch.inputs.size() - 1 - n % batch.inputs.size()] %
                                    source.vocab);
    pairs.source.lengths.assign(batch.shape.batch, source.context);
    pairs.source.lengths[0] = 3;
    work.pair.objective = work.objective;
    model.encoder.options = model.decoder.options = options;
    return model.forward(pairs, work.pair, key);
  }
  void backward(const Batch&, Workspace& work, PairProbe& grad) const {
    model.backward(work.batch, work.pair, grad.model);
  }
};

template <class Model>
void examine(const Pass& pass, const Objective& objective, double spread = 0.5) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    const GradcheckReport report = gradcheck<PairProbe<Model>>({.seed = seed,
                                                                .pass = pass,
                                                                .routing = {.objective = objective},
                                                                .spread = spread,
                                                                .per_tensor = 16});
    INFO("seed " << seed << ", worst " << report.worst << " in " << report.where);
    INFO(report.message);
    REQUIRE(report.ok);
    REQUIRE(report.worst <= 1e-6);
  }
}

class Fixture {
 public:
  std::vector<double> numbers(const std::string& name) const {
    INFO("tensor " << name);
    const auto found = file_.header.tensors.find(name);
    REQUIRE(found != file_.header.tensors.end());
    std::vector<double> numbers(file_.bytes(found->second).size() / sizeof(double));
    for_each_number<double>(found->second.dtype, file_.bytes(found->second).data(), std::ssize(numbers),
                            [&](Index i, double x) { numbers[static_cast<std::size_t>(i)] = x; });
    return numbers;
  }
  template <class Int>
  std::vector<Int> integers(const std::string& name) const {
    const std::vector<double> all = numbers(name);
    return {all.begin(), all.end()};
  }
  std::size_t tensors() const { return file_.header.tensors.size(); }

 private:
  SafetensorsFile file_ = read_safetensors(MOEGPT_TESTS_DIR "/golden/nn_transformer.safetensors");
};

// Largest difference in the first `count` numbers, relative to the largest of them.
double difference(const double* found, const double* expected, std::size_t count) {
  double error = 0, scale = 1e-6;
  for (std::size_t i = 0; i < count; ++i) {
    if (!std::isfinite(found[i])) return 1e30;
    error = std::max(error, std::abs(found[i] - expected[i]));
    scale = std::max(scale, std::abs(expected[i]));
  }
  return error / scale;
}

template <class Model>
void require_torch(const std::string& kind) {
  const Fixture fixture;
  const PairBatch batch{{.shape = {2, 6}, .inputs = fixture.integers<int>("source"), .lengths = {6, 4}},
                        {.shape = {2, 5},
                         .inputs = fixture.integers<int>("inputs"),
                         .targets = fixture.integers<int>("targets"),
                         .lengths = {3, 5}}};
  REQUIRE(batch.source.lengths == fixture.integers<Index>("source_lengths"));
  REQUIRE(batch.target.lengths == fixture.integers<Index>("lengths"));
  Model model, grad;
  std::size_t weights = 0;
  for_each_named_weight(
      [&](const std::string& path, Kind, auto& w) {
        const auto numbers = fixture.numbers("weight." + path);
        REQUIRE(std::ssize(numbers) == w.size());
        std::copy(numbers.begin(), numbers.end(), w.data());
        ++weights;
      },
      model);
  REQUIRE(fixture.tensors() == 5 + 3 * weights + 2 * 3);
  typename Model::Workspace work({2, 6}, {2, 5});
  const Loss loss = model.forward(batch, work);
  model.backward(batch, work, grad);
  const auto rows = [&](const auto& found, const std::string& name, const std::vector<Index>& lengths) {
    const auto expected = fixture.numbers(name);
    const std::size_t row = expected.size() / 2;
    const auto width = static_cast<std::size_t>(found[1] - found[0]);
    for (std::size_t b = 0; b < 2; ++b) {
      INFO(name << ", sequence " << b);
      CHECK(difference(found[0] + b * row, expected.data() + b * row,
                       static_cast<std::size_t>(lengths[b]) * width) <= 1e-10);
    }
  };
  rows(work.encoder.tape.features, kind + ".memory", batch.source.lengths);
  rows(work.decoder.tape.head.logits, kind + ".logits", batch.target.lengths);
  CHECK(std::abs(loss.cross_entropy - fixture.numbers(kind + ".loss")[0]) <= 1e-10);
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w) {
        INFO("gradient of " << path);
        const auto expected = fixture.numbers(kind + ".grad." + path);
        CHECK(difference(w.data(), expected.data(), expected.size()) <= 1e-10);
      },
      grad);
}

}  // namespace

TEST_CASE("gradients of an encoder-decoder model with mixtures on both sides are its differences") {
  const Objective all{.dropout = 0.2, .balance = 0.3, .z = 0.2};
  Index lengths[] = {5, 3};
  Pass pass{.shape = {2, 5}, .key = Key{42}, .lengths = lengths};
  pass.options.residual_scale = 0.7;
  examine<Mixed<Residual::pre_norm>>(pass, all);
  const ModelOptions scaled{.embedding_scale = 2, .residual_scale = 0.4, .logit_scale = 0.5};
  examine<Mixed<Residual::post_norm>>({.shape = {2, 5}, .options = scaled}, all);
  examine<Mixed<Residual::no_norm>>(pass, all, 0.2);
}

TEST_CASE("nn.Transformer with our weights has our outputs and gradients, pre-norm and post-norm") {
  require_torch<Torch<Residual::pre_norm>>("pre");
  require_torch<Torch<Residual::post_norm>>("post");
}

TEST_CASE("padding of sources and targets changes no loss and no gradient of an encoder-decoder model") {
  using Model = Mixed<Residual::pre_norm>;
  const auto model = random_model<Model>(3);
  const PairBatch padded = [] {
    PairBatch b = random_pairs(1, 5);
    b.source.lengths = {4}, b.target.lengths = {3};
    return b;
  }();
  PairBatch bare = padded;
  bare.source.shape.length = 4, bare.source.inputs.resize(4), bare.source.lengths.clear();
  bare.target.shape.length = 3, bare.target.inputs.resize(3), bare.target.targets.resize(3);
  bare.target.lengths.clear();
  PairBatch other = padded;
  other.source.inputs[5] = (other.source.inputs[5] + 1) % source.vocab;
  other.target.inputs[4] = (other.target.inputs[4] + 1) % target.vocab;
  Model::Workspace work({1, 6}, {1, 5}, {}, {.balance = 0.1});
  const auto gradient_of = [&](const PairBatch& batch, Model& grad) {
    const double loss = model->forward(batch, work).total(work.objective);
    model->backward(batch, work, grad);
    return loss;
  };
  Model with_padding, without, with_other;
  const double loss = gradient_of(padded, with_padding);
  CHECK(gradient_of(bare, without) == Approx(loss).epsilon(1e-13));
  CHECK(gradient_of(other, with_other) == loss);
  CHECK(first_difference(with_padding, with_other).empty());
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& a, const auto& b) {
        INFO(path);
        CHECK(difference(a.data(), b.data(), static_cast<std::size_t>(a.size())) <= 1e-12);
      },
      with_padding, without);
}

TEST_CASE("threads and other pairs of a batch change no bits of an encoder-decoder model") {
  using Model = Mixed<Residual::pre_norm, float>;
  const auto model = random_model<Model>(7);
  const PairBatch batch = random_pairs(3, 11);
  Model::Workspace one({3, 6}, {3, 5}, {}, {.dropout = 0.1, .balance = 0.1}),
      two({3, 6}, {3, 5}, {.threads = 2}, one.objective), alone({1, 6}, {1, 5});
  Model grad1, grad2;
  CHECK(model->forward(batch, one, Key{1}).cross_entropy == model->forward(batch, two, Key{1}).cross_entropy);
  model->backward(batch, one, grad1);
  model->backward(batch, two, grad2);
  CHECK(first_difference(grad1, grad2).empty());
  model->forward(batch, one);
  for (std::size_t b = 0; b < 3; ++b) {
    const auto row = [&](const Batch& of, Index length) {
      const auto part = [&](const std::vector<int>& all) {
        const auto first = all.begin() + static_cast<std::ptrdiff_t>(b) * length;
        return std::vector<int>(first, first + length);
      };
      return Batch{{1, length}, part(of.inputs), part(of.targets)};
    };
    model->forward({row(batch.source, 6), row(batch.target, 5)}, alone);
    CHECK(same_bits(alone.decoder.tape.head.logits[0],
                    one.decoder.tape.head.logits[static_cast<Index>(5 * b)], 5 * target.vocab));
  }
}

TEST_CASE("an encoder-decoder model learns to reverse its source, and its tensors are saved and loaded") {
  using Model = Mixed<Residual::pre_norm, float>;
  Model model, grad;
  init(model, Key{1}, Init::makemoe);
  Adam<Model> adam{{.learning_rate = 1e-2}};
  Model::Workspace work({32, 4}, {32, 4}, {}, {.balance = 0.01});
  const auto batch_of = [](std::uint64_t seed) {
    PairBatch b{random_batch({32, 4}, source.vocab, seed), {{32, 4}}};
    for (std::size_t i = 0; i < 128; ++i) {  // inputs: the target before, at first id 8
      const std::size_t from = i / 4 * 4 + 3 - i % 4;
      b.target.targets.push_back(b.source.inputs[from]);
      b.target.inputs.push_back(i % 4 == 0 ? 8 : b.source.inputs[from + 1]);
    }
    return b;
  };
  for (std::uint64_t step = 0; step < 250; ++step) {
    const PairBatch batch = batch_of(step);
    model.forward(batch, work);
    set_zero(grad);
    model.backward(batch, work, grad);
    adam.step(model, grad, work.exec);
  }
  const double loss = model.forward(batch_of(1000), work).cross_entropy;
  CHECK(loss < 0.3);  // guessing: log 7 = 1.9

  const TemporaryFolder folder;
  const std::string path = (folder / "pairs.safetensors").string();
  model.encoder.options.norm_epsilon = 1e-4;
  CHECK(contains(refusal([&] { save_safetensors(path, model); }), "have different options"));
  model.decoder.options = model.encoder.options;
  save_safetensors(path, model);
  Model read;
  load_safetensors(path, read);
  CHECK(first_difference(model, read).empty());
  CHECK(read.encoder.options == model.encoder.options);
  CHECK(read.decoder.options == model.encoder.options);
}

TEST_CASE("a pair batch with another number of sources, or a backward of another batch, is rejected") {
  Both model;
  init(model, Key{1});
  Both::Workspace work({2, 6}, {2, 5});
  PairBatch batch = random_pairs(2, 1);
  Both grad;
  CHECK(refusal([&] { model.backward(batch, work, grad); }) != "");
  PairBatch fewer = batch;
  fewer.source = random_batch({1, 6}, source.vocab, 1);
  CHECK(refusal([&] { model.forward(fewer, work); }) ==
        "moegpt: a batch of 1 sources and 2 targets: one source for each target");
  model.forward(batch, work);
  const PairBatch other = batch;
  CHECK(refusal([&] { model.backward(other, work, grad); }) != "");
  batch.source.inputs[0] = source.vocab;
  CHECK(refusal([&] { model.forward(batch, work); }) != "");
}
