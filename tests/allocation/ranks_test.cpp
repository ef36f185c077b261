// On ranks, too, steps do not allocate; and the memory of a rank is that of docs/distributed.md.
#include "count.hpp"

#include "../dist/threads.hpp"
#include "../support/catch.hpp"

#include <moegpt/dist/distribution.hpp>
#include <moegpt/model/init.hpp>
#include <moegpt/routing/all_experts.hpp>
#include <moegpt/train/accumulate.hpp>
#include <moegpt/train/adam.hpp>

using namespace moegpt;

namespace {

constexpr Config config{.vocab = 64, .context = 16, .dim = 64, .layers = 2, .heads = 4, .hidden = 96};
constexpr int E = 8;

// A rank of a training run, whose batch is the same in all steps.
template <class Model>
struct Run {
  Distribution<ThreadCommunicator> ranks;
  std::unique_ptr<Model> model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  std::optional<Adam<Model>> adam;
  std::optional<Workspace<Model>> work;
  Accumulator<Model> accumulator;
  std::vector<Batch> micro;

  Run(ThreadCommunicator& world, int expert_ranks, OptimizerState state, const AdamOptions& options)
      : ranks(world, expert_ranks, state) {
    init(*model, Key{1});
    ranks.keep_own_experts(*model), ranks.keep_own_experts(*grad);
    if (state == OptimizerState::sharded)
      adam.emplace(options, *grad, ranks.list_shards(*grad));
    else
      adam.emplace(options, *grad);
  }
  // `sequences` of this rank
  void prepare(int rank, Index sequences, int micro_batches) {
    Rng rng(static_cast<std::uint64_t>(rank));
    micro.resize(static_cast<std::size_t>(micro_batches), Batch{{sequences, 16}});
    for (Batch& batch : micro)
      for (auto* ids : {&batch.inputs, &batch.targets}) {
        ids->resize(static_cast<std::size_t>(batch.shape.tokens()));
        for (int& id : *ids) id = static_cast<int>(rng.below(64));
      }
    work.emplace(Shape{sequences, 16}, Exec{}, Objective{.balance = 0.01});
    work->ranks = &ranks.of_batch();
  }
  void step() {
    set_zero(*grad);
    accumulator.step(*model, micro, *work, *grad);
    ranks.reduce(*grad);
    adam->step(*model, *grad, {}, clip_scale(ranks.global_norm(*grad), 1));
    ranks.gather_weights(*model, *grad);
  }
};

// Returns when all ranks have called it.
void meet(ThreadCommunicator& world) {
  char all[8];
  world.gather("", all, 1);
}

struct Held {
  double state = 0, step = 0;  // bytes of a rank: weights, gradient and moments; all that steps need
};
// On average over ranks.
Held bytes_held(int P, int expert_ranks, OptimizerState optimizer, Index sequences) {
  using Model = GPT<config, ExpertParallel<AllExperts<E>>>;  // loads are uniform
  Held held;
  on_ranks(P, [&](ThreadCommunicator& world) {
    meet(world);
    const long before = allocated_bytes;
    meet(world);
    Run<Model> run(world, expert_ranks, optimizer, {});
    meet(world);
    const long state = allocated_bytes - before;
    meet(world);
    run.prepare(world.rank(), sequences, 1);
    run.step();
    meet(world);
    if (world.rank() == 0)
      held = {static_cast<double>(state) / P, static_cast<double>(allocated_bytes - before - state) / P};
    meet(world);
  });
  return held;
}
// What a process of as many tokens needs without Ranks.
double bytes_of_workspace(Index sequences) {
  using Model = GPT<config, AllExperts<E>>;
  const auto model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  Batch batch{{sequences, 16}};
  batch.inputs.resize(static_cast<std::size_t>(batch.shape.tokens())), batch.targets = batch.inputs;
  const long before = allocated_bytes;
  const Workspace<Model> work({sequences, 16});
  return static_cast<double>(allocated_bytes - before);
}

}  // namespace

TEST_CASE("steps of ranks do not allocate after the first two") {
  using Model = GPT<config, ExpertParallel<TopKRouter<E, 2>>>;
  for (const OptimizerState state : {OptimizerState::replicated, OptimizerState::sharded})
    for (const auto& [P, expert_ranks] : {std::pair{2, 1}, {2, 2}, {4, 2}}) {
      long counted = -1;
      on_ranks(P, [&, expert_ranks = expert_ranks](ThreadCommunicator& world) {
        // Weights do not change: memory for received tokens grows whenever a rank gets more than before.
        Run<Model> run(world, expert_ranks, state, {.learning_rate = 0});
        run.prepare(world.rank(), 2, 2);
        for (int step = 0; step < 2; ++step) run.step();
        meet(world);
        const long before = allocations;
        meet(world);
        for (int step = 0; step < 5; ++step) run.step();
        meet(world);
        if (world.rank() == 0) counted = allocations - before;
        meet(world);
      });
      INFO("ranks " << P << ", experts over " << expert_ranks);
      CHECK(counted == 0);
    }
}

TEST_CASE("the memory of a rank is that of the formula") {
  if (!bytes_are_counted) return;
  using Model = GPT<config, ExpertParallel<AllExperts<E>>>;
  const auto model = std::make_unique<Model>();
  double experts = 0, dense = 0;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& w) {
        (path.find("experts") == std::string::npos ? dense : experts) += static_cast<double>(w.size());
      },
      *model);
  const double b = sizeof(float), D = config.dim, L = config.layers, k = E, mebibyte = 1 << 20;
  for (const OptimizerState optimizer : {OptimizerState::replicated, OptimizerState::sharded})
    for (const auto& [P, m] : {std::pair{2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}}) {
      INFO("ranks " << P << ", experts over " << m
                    << (optimizer == OptimizerState::sharded ? ", sharded" : ""));
      const Index sequences = 4;
      const Held held = bytes_held(P, m, optimizer, sequences);
      const double own = dense + experts / m;
      const double moments = optimizer == OptimizerState::sharded ? (dense + experts) / P : own;
      const double state = 2 * b * own + 2 * b * moments;
      const double T = static_cast<double>(sequences) * config.context;
      const double exchange = m > 1 ? k * T * (b * (L * D + 4 * D + 4) + 8 * L) : 0;
      const double reduced = m > 1 ? std::max(dense, m < P ? experts / m : 0) : dense + experts;
      const double buckets = 2 * std::min(mebibyte, b * reduced);
      const double workspace = bytes_of_workspace(sequences);
      CHECK(held.state == Approx(state).epsilon(0.05));
      CHECK(held.step - workspace == Approx(exchange + buckets).epsilon(0.05));
    }
}
