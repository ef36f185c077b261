#include <moegpt/io/model_file.hpp>
#include <moegpt/model/classifier.hpp>
#include <moegpt/model/routing_statistics.hpp>
#include <moegpt/moe/expert_heads.hpp>
#include <moegpt/train/accumulate.hpp>
#include <moegpt/train/adam.hpp>
#include <moegpt/train/freeze.hpp>

#include "../support/gradchecks.hpp"
#include "../support/temporary_folder.hpp"
#include "support.hpp"

namespace {

constexpr Config encoder{.vocab = 7,
                         .context = 9,
                         .dim = 8,
                         .layers = 2,
                         .heads = 2,
                         .hidden = 6,
                         .mask = Mask::full,
                         .dense_first = 1};
using TopTwo = TopKRouter<4, 2>;
template <Pooling P, class T = float>
using Of = Classifier<encoder, TopTwo, 3, P, T>;
// An MoE layer of a trunk can be the one of expert heads: head.map.mixture = block.mixture.
using OfTrunk = Transformer<encoder, TopTwo>;
static_assert(std::is_same_v<ExpertHeads<TopTwo, OfTrunk::ExpertType, 3>::Mixture,
                             decltype(OfTrunk::MoEBlock::mixture)>);
// A head for each expert on the pooled features, with a router of its own.
using ByExperts = Classifier<encoder, TopTwo, 3, Pooling::mean, double,
                             ExpertHeads<TopKRouter<3, 2>, Expert<8, 4, Activation::gelu, double>, 3>>;

Batch labelled(Shape shape, Index labels, std::uint64_t seed) {
  return {shape, random_ids(shape.tokens(), encoder.vocab, 2 * seed), random_ids(labels, 3, 2 * seed + 1)};
}

}  // namespace

TEST_CASE("the gradients of classifiers agree with differences, with any pooling and padding") {
  static const Index lengths[] = {4, 0, 2};
  GradcheckOptions options{.pass = {.shape = {3, 4}, .lengths = lengths}};
  options.routing.objective = {.balance = 0.1, .z = 0.1};
  gradcheck_three_seeds<Of<Pooling::mean, double>>(options);
  gradcheck_three_seeds<Of<Pooling::none, double>>(options);
  options.pass.key = Key{5};
  options.routing.objective.dropout = 0.2;
  gradcheck_three_seeds<ByExperts>(options);
}

TEST_CASE("the gradients of classifiers by the first or last token agree with differences") {
  static const Index lengths[] = {4, 1, 2};
  GradcheckOptions options{.pass = {.shape = {3, 4}, .lengths = lengths}};
  gradcheck_three_seeds<Of<Pooling::first, double>>(options);
  gradcheck_three_seeds<Of<Pooling::last, double>>(options);
}

TEST_CASE(
    "logits are a linear map of the mean, first or last token, or of each, and the loss is their "
    "cross-entropy") {
  const Batch batch = labelled({3, 4}, 3, 1);
  const auto check_pooling = [&]<Pooling P>(const std::vector<Index>& tokens,
                                            std::integral_constant<Pooling, P>) {
    const auto model = random_model<Of<P>>(2);
    Workspace<Of<P>> work({3, 4});
    const ClassLoss loss = model->forward(batch, work);
    double expected = 0;
    Index correct = 0;
    for (Index b = 0; b < 3; ++b) {
      Eigen::VectorXf p = Eigen::VectorXf::Zero(8);
      for (const Index t : tokens) p += work.tape.normed.eigen().col(b * 4 + t);
      const Eigen::VectorXf z = model->head.map.weight.eigen() * (p / static_cast<float>(tokens.size())) +
                                Eigen::VectorXf(model->head.map.bias.eigen().transpose());
      CHECK((work.tape.head.logits.eigen().col(b) - z).cwiseAbs().maxCoeff() < 1e-5f);
      const int label = batch.targets[static_cast<std::size_t>(b)];
      expected -= std::log(std::exp(static_cast<double>(z[label])) / z.cast<double>().array().exp().sum());
      Eigen::Index best;
      z.maxCoeff(&best);
      correct += best == label;
      CHECK(work.tape.head.predicted(b) == best);
    }
    CHECK(loss.cross_entropy == Approx(expected / 3).epsilon(1e-5));
    CHECK(loss.correct == correct);
    CHECK(loss.targets == 3);
  };
  check_pooling({0, 1, 2, 3}, std::integral_constant<Pooling, Pooling::mean>{});
  check_pooling({0}, std::integral_constant<Pooling, Pooling::first>{});
  check_pooling({3}, std::integral_constant<Pooling, Pooling::last>{});

  const auto model = random_model<Of<Pooling::none>>(2);
  Workspace<Of<Pooling::none>> work({3, 4});
  const ClassLoss loss = model->forward(labelled({3, 4}, 12, 1), work);
  CHECK(loss.targets == 12);
  CHECK(loss.accuracy() == static_cast<double>(loss.correct) / 12);
  const Eigen::MatrixXf z = (model->head.map.weight.eigen() * work.tape.normed.eigen()).colwise() +
                            Eigen::VectorXf(model->head.map.bias.eigen().transpose());
  CHECK((work.tape.head.logits.eigen() - z).cwiseAbs().maxCoeff() < 1e-5f);
}

// Invariants 5 and 6, and padding.
TEMPLATE_TEST_CASE(
    "padding, the other sequences and threads change no bit of a sequence's logits, and "
    "threads none of the gradients",
    "", Of<Pooling::mean>, Of<Pooling::first>, Of<Pooling::last>, Of<Pooling::none>) {
  using Model = TestType;
  const auto model = random_model<Model>(3);
  const Shape shape{3, 9};
  const std::vector<Index> lengths{5, 9, 2};
  Batch batch = labelled(shape, Model::targets_in(shape), 4);
  batch.lengths = lengths;
  Workspace<Model> one(shape), two(shape, {2});
  Model grad, grad_two;
  const Objective objective{.balance = 0.1};
  const double loss = model->forward(batch, one, {}, objective).cross_entropy;
  CHECK(model->forward(batch, two, {}, objective).cross_entropy == loss);
  model->backward(batch, one, grad);
  model->backward(batch, two, grad_two);
  CHECK(first_difference(grad, grad_two) == "");

  for (Index b = 0; b < 3; ++b) {
    const Index length = lengths[static_cast<std::size_t>(b)];
    Batch alone{{1, length}};
    alone.inputs.assign(batch.inputs.begin() + b * 9, batch.inputs.begin() + b * 9 + length);
    Workspace<Model> work({1, length}, {}, {}, Use::inference);
    CHECK(model->forward(alone, work).targets == 0);
    const Index rows = Model::targets_in(alone.shape), first = Model::targets_in({1, 9}) * b;
    CHECK(same_bits(work.tape.head.logits[0], one.tape.head.logits[first], rows * 3));
    const std::vector<int> classes = model->predict(alone, work);
    REQUIRE(std::ssize(classes) == rows);
    for (Index i = 0; i < rows; ++i)
      CHECK(classes[static_cast<std::size_t>(i)] == one.tape.head.predicted(first + i));
  }
  // labels of padding and of ignored tokens do not count
  Batch other = batch;
  for (std::size_t n = 0; n < 27; ++n)
    if (static_cast<Index>(n % 9) >= lengths[n / 9]) {
      other.inputs[n] = (other.inputs[n] + 1) % encoder.vocab;
      if (Model::HeadType::of_tokens) other.targets[n] = (other.targets[n] + 1) % 3;
    }
  CHECK(model->forward(other, two, {}, objective).cross_entropy == loss);
  other.targets.assign(other.targets.size(), -1);
  CHECK(model->forward(other, two, {}, objective).targets == 0);
}

TEST_CASE("a sequence without tokens has no loss, and an expert head of it is not routed") {
  const auto model = random_model<ByExperts>(5);
  Batch batch = labelled({3, 4}, 3, 6);
  batch.lengths = {4, 0, 3};
  ByExperts::Workspace work({3, 4});
  CHECK(model->forward(batch, work).targets == 2);
  CHECK(work.tape.head.map.plan.slot_count() == 4);
}

TEST_CASE("a classifier refuses labels and batches that it does not have") {
  using Model = Of<Pooling::mean>;
  const auto model = random_model<Model>(1);
  Workspace<Model> work({2, 4});
  Model grad;
  Batch batch = labelled({2, 4}, 2, 1);
  batch.targets = {1, 3};
  CHECK(contains(refusal([&] { model->forward(batch, work); }), "label 1 is 3, expected 0 .. 2"));
  batch.targets = {1, 1, 1};
  CHECK(contains(refusal([&] { model->forward(batch, work); }), "3 labels for 2 sequences"));
  batch.targets = {1, -7};
  CHECK(model->forward(batch, work).targets == 1);
  CHECK(contains(refusal([&] { model->backward(labelled({2, 4}, 2, 1), work, grad); }), "another batch"));
  const auto tokens = random_model<Of<Pooling::none>>(1);
  Workspace<Of<Pooling::none>> token_work({2, 4});
  CHECK(contains(refusal([&] { tokens->forward(batch, token_work); }), "2 labels for 8 tokens"));
  batch.lengths = {5, 1};
  CHECK(contains(refusal([&] { model->forward(batch, work); }), "sequence 0 has length 5"));
}

TEST_CASE("a classifier with a trunk of a GPT learns by its head alone, and its tensors are saved and read") {
  using Model = Of<Pooling::mean>;
  const auto gpt = random_model<GPT<encoder, TopTwo>>(7);
  Model model, grad;
  init(model, Key{1});
  model.trunk = gpt->trunk;
  freeze_all_but(grad, {"head"});
  Workspace<Model> work({16, 6});
  Adam<Model> adam({.learning_rate = 3e-2});
  double mean = 2;
  for (int step = 0; step < 400; ++step) {  // how often id 0 occurs: never, once, or more often
    Batch batch{{16, 6}, random_ids(96, 5, static_cast<std::uint64_t>(step))};
    for (auto ids = batch.inputs.begin(); ids != batch.inputs.end(); ids += 6)
      batch.targets.push_back(static_cast<int>(std::min<Index>(std::count(ids, ids + 6, 0), 2)));
    mean = 0.95 * mean + 0.05 * model.forward(batch, work).cross_entropy;
    set_zero(grad);
    model.backward(batch, work, grad);
    adam.step(model, grad);
  }
  CHECK(mean < 0.9);  // of log 3 = 1.1
  CHECK(first_difference(model.trunk, gpt->trunk) == "");
  RoutingStatistics<Model> statistics;
  statistics.add(model, work);
  CHECK(statistics.layers.size() == 1);

  const TemporaryFolder folder;
  const std::string path = (folder / "classifier.safetensors").string();
  save_safetensors(path, model);
  Model read;
  load_safetensors(path, read);
  CHECK(first_difference(read, model) == "");
  CHECK(to_text<Model>().starts_with("Classifier<Config{.vocab = "));
}

TEST_CASE("micro-batches of a classifier are weighted by their labels") {
  using Model = Of<Pooling::mean, double>;
  const auto model = random_model<Model>(8);
  const Batch whole = labelled({4, 5}, 4, 9);
  const auto part = [&](Index first, Index count) {
    return Batch{{count, 5},
                 {whole.inputs.begin() + first * 5, whole.inputs.begin() + (first + count) * 5},
                 {whole.targets.begin() + first, whole.targets.begin() + first + count}};
  };
  Workspace<Model> work({4, 5});
  Model grad, sum;
  const Loss loss = model->forward(whole, work);
  model->backward(whole, work, grad);
  const std::vector<Batch> parts{part(0, 3), part(3, 1)};
  const Loss of_parts = Accumulator<Model>().step(*model, parts, work, sum);
  CHECK(of_parts.cross_entropy == Approx(loss.cross_entropy).epsilon(1e-13));
  CHECK(of_parts.targets == 4);
  double worst = 0;
  for_each_weight(
      [&](const auto& a, const auto& b) {
        for (Index i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
      },
      grad, sum);
  CHECK(worst < 1e-13);
}
