// Neither a training step of a classifier nor one of several tasks allocates after the first. malloc is
// replaced by tests/allocation/count_test.cpp, in the same program.
#include "count.hpp"

#include "../support/catch.hpp"

#include <moegpt/model/classifier.hpp>
#include <moegpt/model/init.hpp>
#include <moegpt/model/multi_task.hpp>
#include <moegpt/moe/expert_heads.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/core/runs.hpp>
#include <moegpt/train/adam.hpp>

#include <memory>

using namespace moegpt;

namespace {

constexpr Config encoder{
    .vocab = 11, .context = 8, .dim = 12, .layers = 2, .heads = 3, .hidden = 8, .mask = Mask::full};
using ByExperts = Classifier<encoder, TopKRouter<4, 2>, 3, Pooling::mean, float,
                             ExpertHeads<TopKRouter<3, 2>, Expert<12, 8>, 3>>;
using Tasks = MultiTask<encoder, Masked<TopKRouter<4, 2>, 2>, ClassHead<12, 3, Pooling::last>,
                        ClassHead<12, 5, Pooling::none>>;

// The most allocations of a step after the first of each batch.
template <class Model, class AnyBatch>
long allocations_of_steps(std::span<const AnyBatch> batches) {
  const auto model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  init(*model, Key{1});
  const Exec exec{2};
  typename Model::Workspace work({6, 8}, exec, {.dropout = 0.1, .balance = 0.01});
  Adam<Model> adam;
  long most = 0;
  for (int step = 0; step < 10; ++step) {
    const long before = allocations;
    const AnyBatch& batch = batches[static_cast<std::size_t>(step) % batches.size()];
    model->forward(batch, work, Key{2}.with(Purpose::step, step));
    set_zero(*grad, exec);
    model->backward(batch, work, *grad);
    adam.step(*model, *grad, exec);
    if (step > 0) most = std::max(most, allocations - before);
  }
  return most;
}

}  // namespace

TEST_CASE("steps 2 to 10 of a classifier with a head for each expert do not allocate, with padding") {
  const Batch batch{.shape = {6, 8},
                    .inputs = std::vector<int>(48, 3),
                    .targets = {0, 1, 2, -1, 1, 0},
                    .lengths = {8, 1, 0, 5, 5, 8}};
  CHECK(allocations_of_steps<ByExperts>(std::span(&batch, 1)) == 0);
}

TEST_CASE("steps 2 to 10 of several tasks do not allocate, in turn and together") {
  TaskBatch together{{.shape = {6, 8}, .inputs = std::vector<int>(48, 3)}};
  together.labels = {std::vector<int>(6, 2), std::vector<int>(48, 4)};
  TaskBatch one = together, two = together;
  one.labels[1].clear(), two.labels[0].clear();
  const TaskBatch batches[] = {one, two, together};
  CHECK(allocations_of_steps<Tasks>(std::span<const TaskBatch>(batches)) == 0);
}
