#include <moegpt/io/safetensors.hpp>
#include <moegpt/model/multi_task.hpp>
#include <moegpt/model/routing_statistics.hpp>
#include <moegpt/moe/expert_heads.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/train/adam.hpp>
#include <moegpt/train/freeze.hpp>

#include "../support/gradchecks.hpp"
#include "../support/temporary_folder.hpp"
#include "support.hpp"

namespace {

constexpr Config encoder{
    .vocab = 7, .context = 9, .dim = 8, .layers = 2, .heads = 2, .hidden = 6, .mask = Mask::full};
// Classes of sequences, classes of tokens, and experts with heads of their own.
template <class T, class Recipe = Masked<TopKRouter<4, 2>, 3>>
using Three =
    MultiTask<encoder, Recipe, ClassHead<8, 3, Pooling::mean, T>, ClassHead<8, 2, Pooling::none, T>,
              ClassHead<8, 4, Pooling::first, T, MoELayer<TopKRouter<3, 2>, LinearExpert<8, 4, T>>>>;
using Model = Three<float>;

std::vector<std::vector<int>> labels(Shape shape, std::uint64_t seed) {
  return {random_ids(shape.batch, 3, seed), random_ids(shape.tokens(), 2, seed + 1),
          random_ids(shape.batch, 4, seed + 2)};
}
TaskBatch all_tasks(Shape shape, std::uint64_t seed) {
  TaskBatch batch{{shape, random_ids(shape.tokens(), encoder.vocab, seed)}};
  batch.labels = labels(shape, seed + 1);
  return batch;
}
TaskBatch of_task(std::size_t task, Shape shape, std::uint64_t seed) {
  TaskBatch batch = all_tasks(shape, seed);
  for (std::size_t i = 0; i < 3; ++i)
    if (i != task) batch.labels[i].clear();
  return batch;
}

// The model for gradcheck: all tasks have labels, with weights, on a batch of random ids. `task` < 0: all.
template <int task>
struct Checked : Three<double> {
  using Workspace = moegpt::Workspace<Three<double>>;
  TaskBatch with_labels(const Batch& batch) const {
    TaskBatch all{batch};
    all.targets.clear();
    all.labels = labels(batch.shape, 5);
    all.labels[1][2] = -1;
    if (task >= 0)
      for (int i = 0; i < 3; ++i)
        if (i != task) all.labels[static_cast<std::size_t>(i)].clear();
    all.weights = {0.5, 2, 1.5};
    return all;
  }
  mutable TaskBatch last{};
  auto forward(const Batch& batch, Workspace& work, std::optional<Key> key = {}) const {
    last = with_labels(batch);
    return Three<double>::forward(last, work, key);
  }
  void backward(const Batch&, Workspace& work, Checked& grad) const {
    Three<double>::backward(last, work, grad);
  }
};

}  // namespace

TEST_CASE(
    "the gradient of several tasks on one trunk agrees with differences, masks and expert heads included") {
  static const Index lengths[] = {4, 0, 2};
  GradcheckOptions options{.pass = {.shape = {3, 4}, .lengths = lengths}};
  options.routing.objective = {.balance = 0.1, .z = 0.1};
  gradcheck_three_seeds<Checked<-1>>(options);
  gradcheck_three_seeds<Checked<1>>(options);
}

TEST_CASE("the loss of several tasks is the weighted sum of theirs, and so is its gradient") {
  const auto model = random_model<Three<double, TopKRouter<4, 2>>>(1);
  using Plain = Three<double, TopKRouter<4, 2>>;
  TaskBatch all = all_tasks({3, 4}, 2);
  all.weights = {0.5, 2, 1.5};
  Workspace<Plain> work({3, 4});
  Plain grad, sum;
  const auto loss = model->forward(all, work);
  model->backward(all, work, grad);
  double expected = 0;
  Index correct = 0;
  for (std::size_t task = 0; task < 3; ++task) {
    TaskBatch one = all;
    for (std::size_t i = 0; i < 3; ++i)
      if (i != task) one.labels[i].clear();
    one.weights.clear();
    const auto alone = model->forward(one, work);
    model->backward(one, work, sum, all.weights[task]);
    CHECK(alone.cross_entropy == loss.of_task[task].cross_entropy);
    CHECK(alone.of_task[task].accuracy() == loss.of_task[task].accuracy());
    expected += all.weights[task] * alone.cross_entropy;
    correct += alone.correct;
  }
  CHECK(loss.cross_entropy == expected);
  CHECK(loss.correct == correct);
  CHECK(loss.targets == 3 + 12 + 3);
  double worst = 0;
  for_each_weight(
      [&](const auto& a, const auto& b) {
        for (Index i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
      },
      grad, sum);
  CHECK(worst < 1e-13);
}

TEST_CASE("a task's experts and its learned mask come with its batch") {
  const auto model = random_model<Model>(3);
  const AllowedExperts<TopKRouter<4, 2>> first{0, 1}, second{2, 3};
  Workspace<Model> work({3, 4});
  TaskBatch batch = of_task(1, {3, 4}, 4);
  batch.allowed = second;
  model->forward(batch, work);
  Model grad;
  model->backward(batch, work, grad);
  RoutingStatistics<Model> statistics;
  statistics.add(*model, work);
  for (const auto& layer : statistics.layers) {
    CHECK(layer.routing.load[0] + layer.routing.load[1] == 0);
    CHECK(layer.routing.load[2] + layer.routing.load[3] == 24);
  }
  CHECK(work.tape.trunk.blocks.second[0].mixture.router.task == 1);
  const auto& masks = grad.trunk.blocks.second[0].mixture.router.mask;
  CHECK(masks[1].touched);
  CHECK_FALSE(masks[0].touched);
  CHECK_FALSE(masks[2].touched);

  batch.task = 2;  // said, whatever has labels
  batch.allowed = nullptr;
  work.allowed = first;
  model->forward(batch, work);
  CHECK(work.tape.trunk.blocks.second[0].mixture.router.task == 2);
  CHECK(work.tape.trunk.blocks.second[0].mixture.plan.load(2) == 0);
  work.allowed = nullptr;
  work.task = 0;  // of several tasks with labels
  model->forward(all_tasks({3, 4}, 2), work);
  CHECK(work.tape.trunk.blocks.second[0].mixture.router.task == 0);
}

TEST_CASE("a step of one task changes no other head, and its moments neither") {
  const auto model = random_model<Model>(5);
  Workspace<Model> work({3, 4});
  Model grad;
  Adam<Model> adam;
  for (const std::size_t task : {0u, 0u, 1u, 1u}) {
    const Model before = *model;
    const TaskBatch batch = of_task(task, {3, 4}, 6);
    model->forward(batch, work);
    set_zero(grad);
    model->backward(batch, work, grad);
    adam.step(*model, grad);
    CHECK((first_difference(std::get<0>(model->heads.all), std::get<0>(before.heads.all)) == "") ==
          (task != 0));
    CHECK((first_difference(std::get<1>(model->heads.all), std::get<1>(before.heads.all)) == "") ==
          (task != 1));
    CHECK(first_difference(std::get<2>(model->heads.all), std::get<2>(before.heads.all)) == "");
  }
}

// Invariants 5 and 6, and padding.
TEST_CASE("threads, other sequences and padding change no bit of a task") {
  const auto model = random_model<Model>(7);
  TaskBatch batch = all_tasks({3, 9}, 8);
  batch.task = 0;
  batch.lengths = {5, 9, 2};
  Workspace<Model> one({3, 9}), two({3, 9}, {2});
  Model grad, grad_two;
  CHECK(model->forward(batch, one).cross_entropy == model->forward(batch, two).cross_entropy);
  model->backward(batch, one, grad);
  model->backward(batch, two, grad_two);
  CHECK(first_difference(grad, grad_two) == "");
  for (Index b = 0; b < 3; ++b) {
    const Index length = batch.lengths[static_cast<std::size_t>(b)];
    TaskBatch alone = all_tasks({1, length}, 9);
    alone.task = 0;
    alone.inputs.assign(batch.inputs.begin() + b * 9, batch.inputs.begin() + b * 9 + length);
    model->forward(alone, two);
    const auto same = [&](const auto& of_alone, const auto& of_batch, Index from) {
      return same_bits(of_alone.logits[0], of_batch.logits[from],
                       of_alone.logits.count() * of_alone.logits.dim);
    };
    CHECK(same(std::get<0>(two.tape.heads.all), std::get<0>(one.tape.heads.all), b));
    CHECK(same(std::get<1>(two.tape.heads.all), std::get<1>(one.tape.heads.all), b * 9));
    CHECK(same(std::get<2>(two.tape.heads.all), std::get<2>(one.tape.heads.all), b));
  }
}

TEST_CASE("labels, weights, masks and batches that a model of several tasks does not have are refused") {
  const auto model = random_model<Model>(1);
  Workspace<Model> work({3, 4});
  Model grad;
  const TaskBatch good = all_tasks({3, 4}, 2);
  const auto fault = [&](auto change) {
    TaskBatch batch = good;
    change(batch);
    return refusal([&] { model->forward(batch, work); });
  };
  CHECK(contains(fault([](auto& b) { b.labels.pop_back(); }), "labels of 2 tasks, but the model has 3"));
  CHECK(contains(fault([](auto& b) { b.labels[1][5] = 2; }), "label 5 is 2, expected 0 .. 1"));
  CHECK(contains(fault([](auto& b) { b.labels[2].pop_back(); }), "2 labels for 3 sequences"));
  CHECK(contains(fault([](auto& b) { b.targets = {1}; }), "set labels[task]"));
  CHECK(contains(fault([](auto& b) { b.weights = {1, 1}; }), "2 weights of tasks"));
  CHECK(contains(fault([](auto& b) { b.weights = {1, -1, 1}; }), "weight of a task is -1"));
  CHECK(contains(fault([](auto& b) { b.task = 3; }), "this is task 3"));
  const bool one[] = {true, false, false, false};
  CHECK(contains(fault([&](auto& b) { b.allowed = one; }), "1 of 4 experts may be chosen"));
  CHECK(contains(refusal([&] { model->backward(good, work, grad); }), "call forward first"));
  model->forward(good, work);
  CHECK(contains(refusal([&] { model->backward(all_tasks({3, 4}, 2), work, grad); }), "another batch"));
}

TEST_CASE("heads have paths by task, by which they are frozen, saved and read") {
  const auto model = random_model<Model>(2);
  Model grad, read;
  freeze_all_but(grad, {"heads.1", "*.mask.1"});
  int kept = 0;
  for_each_named_weight([&](const std::string&, Kind, const auto& w) { kept += !w.empty(); }, grad);
  CHECK(kept == 2 + 2);  // weight and bias of a head, a mask in each of two layers
  const TemporaryFolder folder;
  const std::string path = (folder / "tasks.safetensors").string();
  save_safetensors(path, *model);
  load_safetensors(path, read);
  CHECK(first_difference(read, *model) == "");
}
