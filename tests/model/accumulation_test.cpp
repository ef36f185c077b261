// A batch in parts: micro-batches one after another in one gradient, or a gradient for each thread and their
// sum.
#include <moegpt/core/runs.hpp>
#include <moegpt/model/mixtures.hpp>
#include <moegpt/train/adam.hpp>

#include "support.hpp"

namespace {

constexpr Config config{.vocab = 11, .context = 8, .dim = 12, .layers = 2, .heads = 3, .hidden = 10};
using Model = GPT<config, TopKRouter<4, 2>, double>;
using Sparse = GPT<config, TopKRouter<16, 1>, double>;  // some experts get no token of a small batch

// The sequences of a batch from `first` on.
Batch part(const Batch& all, Index first, Index count) {
  const auto from = first * all.shape.length, to = (first + count) * all.shape.length;
  return {{count, all.shape.length},
          {all.inputs.begin() + from, all.inputs.begin() + to},
          {all.targets.begin() + from, all.targets.begin() + to}};
}

double distance(const Model& a, const Model& b) {
  double worst = 0;
  for_each_weight(
      [&](const auto& x, const auto& y) {
        for (Index i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(x[i] - y[i]));
      },
      a, b);
  return worst;
}

}  // namespace

TEST_CASE("micro-batches weighed by their numbers of targets have the gradient of the whole batch") {
  const auto model = random_model<Model>(1);
  Batch batch = random_batch({3, 8}, config.vocab, 2);
  for (int n : {0, 1, 2, 3, 4, 9}) batch.targets[static_cast<std::size_t>(n)] = -1;  // 3, 7 and 8 targets
  Model::Workspace work({3, 8});
  Model whole, sum;
  const Loss loss = model->forward(batch, work);
  model->backward(batch, work, whole);
  double mean = 0;
  for (Index b = 0; b < 3; ++b) {
    const Batch micro = part(batch, b, 1);
    const Loss one = model->forward(micro, work);
    const double weight = static_cast<double>(one.targets) / static_cast<double>(loss.targets);
    model->backward(micro, work, sum, weight);
    mean += weight * one.cross_entropy;
  }
  CHECK(loss.targets == 18);
  CHECK(std::abs(mean - loss.cross_entropy) < 1e-13);
  CHECK(distance(whole, sum) < 1e-13);
}

TEST_CASE("the weight of a batch multiplies the gradient of every loss") {
  const auto model = random_model<Model>(1);
  const Batch batch = random_batch({2, 8}, config.vocab, 2);
  const Objective all{.balance = 0.3, .z = 0.02, .importance = 0.1, .variance = 0.2, .count = 0.01};
  Model::Workspace work({2, 8}, {}, all);
  Model once, half;
  model->forward(batch, work);
  model->backward(batch, work, once);
  model->backward(batch, work, half, 0.5);
  model->backward(batch, work, half, 0.5);
  CHECK(distance(once, half) < 1e-14);
  Model none;
  model->backward(batch, work, none, 0);
  CHECK(distance(none, Model()) == 0);
  for (const double weight : {-1.0, std::nan(""), std::numeric_limits<double>::infinity()})
    CHECK(contains(refusal([&] { model->backward(batch, work, half, weight); }),
                   "the weight of this batch is"));
}

TEST_CASE("experts that only one of two gradients reached move by the step of their sum") {
  const auto model = std::make_unique<Sparse>();
  init(*model, Key{1}, Init::makemoe);
  const Batch batch = random_batch({2, 4}, config.vocab, 2);
  Sparse::Workspace work({2, 4});
  Sparse whole, first, second;
  model->forward(batch, work);
  model->backward(batch, work, whole);
  const Batch halves[2] = {part(batch, 0, 1), part(batch, 1, 1)};
  Sparse* const gradients[2] = {&first, &second};
  for (int i = 0; i < 2; ++i) {
    model->forward(halves[i], work);
    model->backward(halves[i], work, *gradients[i], 0.5);
  }
  Index only_second = 0;
  for_each_weight_of_kind(
      [&](Kind kind, const auto& a, const auto& b) {
        only_second += kind == Kind::sparse && !a.touched && b.touched;
      },
      first, second);
  REQUIRE(only_second > 0);

  add(first, second);
  auto stepped = std::make_unique<Sparse>(*model), expected = std::make_unique<Sparse>(*model);
  // a large epsilon: the first step is then a multiple of the gradient, which differs by rounding
  Adam<Sparse> adam{{.learning_rate = 0.1, .epsilon = 1}}, other{{.learning_rate = 0.1, .epsilon = 1}};
  adam.step(*stepped, first);
  other.step(*expected, whole);
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& a, const auto& b) {
        CAPTURE(path);
        double worst = 0;
        for (Index i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
        CHECK(worst < 1e-12);
      },
      *stepped, *expected);
}

TEST_CASE("after a forward that threw there is no backward") {
  const auto model = random_model<Model>(1);
  const Batch batch = random_batch({2, 8}, config.vocab, 2);
  Model::Workspace work({2, 8});
  Model grad;
  model->forward(batch, work);
  model->trunk.norm.weight[0] = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(model->forward(batch, work), std::runtime_error);
  CHECK(contains(refusal([&] { model->backward(batch, work, grad); }),
                 "no forward of this workspace has returned"));
}
