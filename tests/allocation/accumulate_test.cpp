// Reading micro-batches and accumulating their gradients does not allocate after the first step.
#include "count.hpp"

#include "../support/catch.hpp"

#include <moegpt/core/runs.hpp>
#include <moegpt/data/batches.hpp>
#include <moegpt/model/init.hpp>
#include <moegpt/train/accumulate.hpp>

#include <memory>

using namespace moegpt;

namespace {

constexpr Config config{
    .vocab = 29, .context = 16, .dim = 24, .layers = 3, .heads = 3, .hidden = 32, .dense_first = 1};
using Model = GPT<config, TopKRouter<4, 2>>;

}  // namespace

TEST_CASE("steps 2 to 30 of micro-batches on two threads do not allocate, with any loads and orders") {
  std::vector<std::uint8_t> ids(3000);
  Rng rng(3);
  for (auto& id : ids) id = static_cast<std::uint8_t>(rng.below(29));
  TokenSequence tokens{std::vector(ids)};
  tokens.append(TokenSequence{std::vector(ids)});
  const auto model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  init(*model, Key{1});
  Workspace<Model> work({4, 16}, {.threads = 2}, {.dropout = 0.1, .balance = 0.01, .z = 0.001});
  for (const BalanceLoads loads : {BalanceLoads::micro_batch, BalanceLoads::so_far, BalanceLoads::whole_step})
    for (const WindowOrder order : {WindowOrder::random, WindowOrder::shuffled}) {
      Batches batches(tokens, {{4, 16}, order, 5}, Key{2});
      Accumulator<Model> accumulator(loads);
      std::vector<Batch> micro(3);
      long most = 0;
      for (int step = 0; step < 30; ++step) {
        const long before = allocations;
        for (Batch& batch : micro) batches.next(batch);
        set_zero(*grad, work.exec);
        accumulator.step(*model, micro, work, *grad, Key{2}.with(Purpose::step, step));
        if (step > 0) most = std::max(most, allocations - before);
      }
      CHECK(most == 0);
    }
}
