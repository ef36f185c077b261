#include "runs.hpp"

#include "../support/kernels.hpp"

#include <moegpt/dist/distribution.hpp>
#include <moegpt/moe/shared_experts.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>
#include <moegpt/routing/sigmoid_router.hpp>
#include <moegpt/run/checkpoint.hpp>
#include <moegpt/train/adam.hpp>

#include <algorithm>
#include <bit>

namespace runs {
namespace {

using namespace moegpt;

constexpr Config config{
    .vocab = 11, .context = 6, .dim = 8, .layers = 3, .heads = 2, .hidden = 6, .dense_first = 1};
template <class Recipe>
using Model = GPT<config, Recipe, double>;

std::vector<int> random_ids(Index count, std::uint64_t seed) {
  Rng rng(seed);
  std::vector<int> ids(static_cast<std::size_t>(count));
  for (int& id : ids) id = static_cast<int>(rng.below(config.vocab));
  return ids;
}

// The part of rank `rank` of micro-batch `number` of a step: 4 / ranks sequences of 6 tokens. Some sequences
// are padding, and some tokens have no target.
Batch part_of(int step, int number, int rank, int ranks) {
  const Index length = 6;
  Batch whole{{4, length}};
  const auto seed = static_cast<std::uint64_t>(8 * step + 4 * number);
  whole.inputs = random_ids(4 * length, seed), whole.targets = random_ids(4 * length, seed + 1);
  whole.lengths = {6, 2, 0, 5};
  std::rotate(whole.lengths.begin(), whole.lengths.begin() + (step + number) % 4, whole.lengths.end());
  for (std::size_t n = 3; n < whole.targets.size(); n += 7) whole.targets[n] = -1;
  return moegpt::part_of(whole, rank, ranks);
}

template <class Tree>
std::vector<double> numbers_of(const Tree& tree) {
  std::vector<double> all;
  for_each_weight([&](const auto& w) { all.insert(all.end(), w.begin(), w.end()); }, tree);
  return all;
}

// What runs differ in.
struct Losses {
  Objective objective{};
  BalanceLoads loads = BalanceLoads::so_far;
  double bias_rate = 0;  // of balance_selection
};

template <class Recipe>
Result train(AnyCommunicator& world, const Setting& setting, const Losses& with) {
  using M = Model<Recipe>;
  const int P = setting.distributed ? world.size() : 1, rank = setting.distributed ? world.rank() : 0;
  auto model = std::make_unique<M>();
  Rng rng(3);
  for_each_weight_of_kind(
      [&](Kind kind, auto& w) {
        for (double& x : w) x = kind == Kind::buffer ? 0 : 0.4 * rng.normal();
      },
      *model);
  auto grad = std::make_unique<M>();
  Distribution<AnyCommunicator> ranks(world, setting.expert_ranks,
                                      setting.sharded ? OptimizerState::sharded : OptimizerState::replicated);
  Adam<M> adam({.learning_rate = 0.01}, *grad);
  Tokenizer tokenizer = Tokenizer::characters("0123456789a");
  if (setting.first > 0)
    load_checkpoint(std::filesystem::path(setting.folder) / checkpoint::name_of(setting.first), *model, adam,
                    tokenizer);
  ranks.keep_own_experts(*model), ranks.keep_own_experts(*grad), ranks.keep_own_experts(adam);
  ranks.check_equal(*model);
  Workspace<M> work({4 / P, 6}, {}, with.objective);
  if (setting.distributed) work.ranks = &ranks.of_batch();
  Accumulator<M> accumulator(with.loads);
  ExpertCounts<M> counts;
  Result result;
  for (int step = setting.first; step < setting.steps; ++step) {
    const Batch batches[] = {part_of(step, 0, rank, P), part_of(step, 1, rank, P)};
    set_zero(*grad);
    const Key key = Key{7}.with(Purpose::step, static_cast<std::uint64_t>(step));
    const Loss loss = accumulator.step(*model, batches, work, *grad, key,
                                       [&](Index, const Loss&) { counts.add(*model, work); });
    if (setting.distributed) {
      ranks.reduce(*grad);
      ranks.sum(counts);
    }
    const double norm = setting.distributed ? ranks.global_norm(*grad) : global_norm(*grad);
    adam.step(*model, *grad, {}, clip_scale(norm, 0.5));
    ranks.gather_weights(*model, *grad);
    if (with.bias_rate > 0) balance_selection(*model, counts, with.bias_rate);
    counts.clear();
    result.losses.push_back(loss.total(with.objective));
    result.losses.push_back(static_cast<double>(loss.targets));
    result.norms.push_back(norm);
  }
  ranks.check_equal(*model);
  ranks.collect_experts(*model, adam);
  if (!setting.folder.empty() && rank == 0)
    save_checkpoint(setting.into.empty() ? setting.folder : setting.into, *model, adam, tokenizer,
                    {.step = setting.steps});
  result.weights = numbers_of(*model), result.moments = numbers_of(adam);
  result.hash = 14695981039346656037u;
  for (const auto* list : {&result.losses, &result.norms, &result.weights, &result.moments})
    for (const double x : *list)
      result.hash = (result.hash ^ std::bit_cast<std::uint64_t>(x)) * 1099511628211u;
  return result;
}

constexpr Objective every_loss{.dropout = 0.1,
                               .expert_dropout = 0.2,
                               .balance = 0.1,
                               .z = 0.02,
                               .importance = 0.3,
                               .load = 0.2,
                               .variance = 0.3,
                               .count = 0.001};

}  // namespace

Result train(AnyCommunicator& world, const Setting& setting) {
  if (setting.router == "top k")
    return train<ExpertParallel<TopKRouter<4, 2>>>(world, setting, {every_loss, BalanceLoads::whole_step});
  if (setting.router == "noisy")
    return train<ExpertParallel<NoisyTopKRouter<4, 2>>>(world, setting,
                                                        {every_loss, BalanceLoads::whole_step});
  const Objective of_sequences{.dropout = 0.1, .balance = 0.1, .balance_rule = BalanceRule::deepseek};
  return train<SharedExperts<ExpertParallel<SigmoidRouter<4, 2>>>>(
      world, setting, {of_sequences, BalanceLoads::so_far, 0.01});
}

}  // namespace runs
