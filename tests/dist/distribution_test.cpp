#include <moegpt/dist/distribution.hpp>

#include "../support/catch.hpp"
#include "../support/kernels.hpp"
#include "../support/refusal.hpp"
#include "../support/temporary_folder.hpp"
#include "runs.hpp"
#include "threads.hpp"

#include <moegpt/io/file.hpp>
#include <moegpt/run/checkpoint.hpp>
#include <moegpt/train/adam.hpp>

namespace {

using namespace moegpt;
using runs::Result, runs::Setting, runs::AnyCommunicator;

double worst(const std::vector<double>& a, const std::vector<double>& b, bool relative = false) {
  if (a.size() != b.size() || a.empty()) return 1e9;
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (const double off = std::abs(a[i] - b[i]) / (relative ? std::abs(b[i]) : 1); !(off <= most))
      most = off;
  return most;
}

Result on_threads(int P, const Setting& setting) {
  Result result;
  on_ranks(P, [&](const ThreadCommunicator& communicator) {
    AnyCommunicator world(communicator);
    const Result own = runs::train(world, setting);
    if (world.rank() == 0) result = own;
  });
  return result;
}

// On P ranks that share the experts; P = 0: on one process, without a Distribution.
Result any_run(int P, Setting setting) {
  setting.expert_ranks = std::max(P, 1), setting.distributed = P > 0;
  return on_threads(std::max(P, 1), setting);
}

// A tree of replicated weights and of experts, for reductions.
struct Network {
  Weight<float, 3> w;
  static constexpr auto fields() { return Fields{Field{"w", &Network::w}}; }
};
struct Tree {
  using Scalar = float;
  Weight<float, 4, 9> dense;
  HeapArray<Network, 4> experts;
  Weight<float, 2> buffer;
  static constexpr auto fields() {
    return Fields{Field{"dense", &Tree::dense}, Field{"experts", &Tree::experts, Kind::sparse},
                  Field{"buffer", &Tree::buffer, Kind::buffer}};
  }
};

// P ranks against one process, with experts on every rank, distributed, and both.
void same_as_one_process(const std::string& router) {
  AnyCommunicator alone{SerialCommunicator{}};
  Setting setting{.router = router, .distributed = false};
  const Result one = runs::train(alone, setting);
  setting.distributed = true;
  for (const auto& [P, expert_ranks] : {std::pair{1, 1}, {2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}}) {
    setting.expert_ranks = expert_ranks;
    const Result result = on_threads(P, setting);
    INFO("ranks " << P << ", experts over " << expert_ranks);
    CHECK(worst(result.losses, one.losses, true) <= 1e-12);
    CHECK(worst(result.norms, one.norms, true) <= 1e-11);
    CHECK(worst(result.weights, one.weights) <= 1e-10);
    CHECK(worst(result.moments, one.moments) <= 1e-10);
    setting.sharded = true;  // the moments
    CHECK(on_threads(P, setting).hash == result.hash);
    setting.sharded = false;
  }
}

}  // namespace

TEST_CASE("ranks with parts of a batch train as one process with all of it") { same_as_one_process("top k"); }

TEST_CASE("noise and expected loads of ranks are those of one process") { same_as_one_process("noisy"); }

TEST_CASE("selection biases and shared experts of ranks are those of one process") {
  same_as_one_process("shared");
}

TEST_CASE("a reduction adds the ranks' gradients in their order, each once") {
  const float of_rank[4] = {1e8f, 3, -1e8f, 2.5f};  // any other order has another sum
  for (const auto& setting : {std::pair{1, 1}, {2, 2}, {3, 1}, {4, 1}, {4, 2}, {4, 4}}) {
    const int P = setting.first, expert_ranks = setting.second;
    const auto sum_of = [&](int first, int step) {
      float sum = of_rank[first];
      for (int r = first + step; r < P; r += step) sum += of_rank[r];
      return sum;
    };
    std::mutex mutex;
    on_ranks(P, [&](ThreadCommunicator& world) {
      const int rank = world.rank();
      Distribution<ThreadCommunicator> ranks(world, expert_ranks);
      Tree grad;
      for_each_weight([&](auto& w) { std::fill(w.begin(), w.end(), of_rank[rank]); }, grad);
      grad.experts[1].w.touched = rank == P - 1;
      grad.experts[2].w.touched = false;
      ranks.keep_own_experts(grad);
      ranks.reduce(grad);
      const double norm = ranks.global_norm(grad);
      const std::scoped_lock lock(mutex);
      CHECK(grad.dense[35] == sum_of(0, 1));
      double squares = 36 * std::pow(sum_of(0, 1), 2);
      for (int e = 0; e < 4; ++e) {
        const Weight<float, 3>& w = grad.experts[static_cast<std::size_t>(e)].w;
        const int owner = e / (4 / expert_ranks);
        const bool here = rank % expert_ranks == owner;
        CHECK(w.empty() != here);
        if (here) CHECK(w[2] == sum_of(owner, expert_ranks));
        if (here && e == 1) CHECK(w.touched == ((P - 1) % expert_ranks == owner));
        CHECK_FALSE((e == 2 && w.touched));
        squares += 3 * std::pow(sum_of(owner, expert_ranks), 2);
      }
      CHECK(grad.buffer[0] == of_rank[rank]);
      CHECK(norm == Approx(std::sqrt(squares)));
    });
  }
}

TEST_CASE("a reduction sends the bytes of the formula") {
  for (const int P : {2, 4}) {
    std::mutex mutex;
    on_ranks(P, [&](const ThreadCommunicator& communicator) {
      AnyCommunicator world(communicator);
      Tree model, grad;
      const Index of_dense = 36 / P, of_expert = (3 + P - 1) / P, marks = 4;
      const Index shards = (of_dense + 4 * of_expert) * Index{sizeof(float)};
      for (const OptimizerState state : {OptimizerState::replicated, OptimizerState::sharded}) {
        Distribution<AnyCommunicator> ranks(world, 1, state);
        const Index before = world.bytes();
        ranks.reduce(grad);
        ranks.gather_weights(model, grad);
        const std::scoped_lock lock(mutex);
        CHECK(world.bytes() - before == (P - 1) * (2 * shards + marks));
      }
    });
  }
}

TEST_CASE("a checkpoint of any number of ranks continues on any other with the same bits") {
  const TemporaryFolder top;
  const std::string name = checkpoint::name_of(4);
  const auto bytes_of = [&](const std::string& folder, const char* file) {
    return read_file(top / folder / name / file, Index{1} << 20);
  };
  for (const int P : {0, 1, 2, 4}) {
    const std::string saved = "of" + std::to_string(P);
    std::filesystem::create_directory(top / saved);
    any_run(P, {.steps = 4, .folder = (top / saved).string()});
    const std::string model = bytes_of(saved, "model.safetensors");
    const std::string optimizer = bytes_of(saved, "optimizer.safetensors");
    std::vector<double> losses;
    for (const int then : {0, 1, 2, 4}) {
      INFO(P << " ranks, then " << then);
      const std::string again = saved + "again" + std::to_string(then);
      std::filesystem::create_directory(top / again);
      any_run(then,
              {.steps = 4, .first = 4, .folder = (top / saved).string(), .into = (top / again).string()});
      CHECK(bytes_of(again, "model.safetensors") == model);
      CHECK(bytes_of(again, "optimizer.safetensors") == optimizer);
      const Result next = any_run(
          then, {.steps = 6, .first = 4, .folder = (top / saved).string(), .into = (top / again).string()});
      if (then == P) CHECK(next.weights == any_run(P, {.steps = 6}).weights);  // as without a break
      if (losses.empty()) losses = next.losses;
      CHECK(worst(next.losses, losses, true) <= 1e-12);
    }
  }
}

TEST_CASE("sharded moments give the checkpoints of replicated ones, and continue them") {
  const TemporaryFolder top;
  const auto files_of = [&](const std::string& folder) {
    const std::filesystem::path at = top / folder / checkpoint::name_of(3);
    return read_file(at / "model.safetensors", Index{1} << 20) +
           read_file(at / "optimizer.safetensors", Index{1} << 20);
  };
  for (const auto& [P, expert_ranks] : {std::pair{2, 1}, {4, 2}, {4, 4}}) {
    INFO(P << " ranks, experts over " << expert_ranks);
    std::string saved[2];
    for (const bool sharded : {false, true}) {
      const std::string name = std::to_string(P) + std::to_string(expert_ranks) + std::to_string(sharded);
      saved[sharded] = (top / name).string();
      std::filesystem::create_directory(saved[sharded]);
      on_threads(P, {.steps = 3, .expert_ranks = expert_ranks, .sharded = sharded, .folder = saved[sharded]});
    }
    CHECK(files_of(saved[0]) == files_of(saved[1]));
    for (const int then : {2, 4}) {
      const std::string again = saved[0] + "then" + std::to_string(then);
      std::filesystem::create_directory(again);
      const Setting resumed{.steps = 5,
                            .expert_ranks = std::min(expert_ranks, then),
                            .first = 3,
                            .folder = saved[0],
                            .into = again};
      Setting sharded = resumed, unchanged = resumed;
      sharded.sharded = unchanged.sharded = true, unchanged.steps = 3;
      CHECK(on_threads(then, sharded).hash == on_threads(then, resumed).hash);
      on_threads(then, unchanged);
      CHECK(files_of(again) == files_of(saved[0]));
    }
  }
}

TEST_CASE("moments and step counts of all ranks are collected") {
  // Expert e gets a gradient in step e and later ones.
  const auto fill = [](Tree& grad, int step, bool zero) {
    int number = 0;
    for_each_weight_of_kind(
        [&](Kind kind, auto& w) {
          ++number;
          for (Index i = 0; kind != Kind::buffer && i < w.size(); ++i)
            w[i] = zero ? 0 : static_cast<float>(number) + 0.01f * static_cast<float>((step + 1) * i);
          w.touched = false;
        },
        grad);
    for (int e = 0; e <= step; ++e) grad.experts[static_cast<std::size_t>(e)].w.touched = !zero;
  };
  Tree expected, gradient;
  Adam<Tree> one({}, gradient);
  std::vector<std::vector<std::int64_t>> counts;
  std::vector<Tree> first, second, weights;
  for (int step = 0; step < 4; ++step) {
    fill(gradient, step, false);
    one.step(expected, gradient);
    counts.push_back(one.steps()), weights.push_back(expected);
    first.push_back(one.first_moment()), second.push_back(one.second_moment());
  }
  const auto same = [](const Tree& a, const Tree& b) {
    bool equal = true;
    for_each_weight(
        [&](const auto& x, const auto& y) {
          equal = equal && std::equal(x.begin(), x.end(), y.begin(), y.end());
        },
        a, b);
    return equal;
  };
  struct Moments {
    OptimizerState state;
    bool never_whole;
  };
  for (const Moments& moments : {Moments{OptimizerState::replicated, false},
                                 {OptimizerState::sharded, false},
                                 {OptimizerState::sharded, true}})
    for (const auto& setting : {std::pair{2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}, {3, 1}}) {
      const int P = setting.first, expert_ranks = setting.second;
      std::mutex mutex;
      on_ranks(P, [&](ThreadCommunicator& world) {
        Distribution<ThreadCommunicator> ranks(world, expert_ranks, moments.state);
        Tree model, grad;
        ranks.keep_own_experts(model), ranks.keep_own_experts(grad);
        auto adam =
            moments.never_whole ? Adam<Tree>({}, grad, ranks.list_shards(grad)) : Adam<Tree>({}, grad);
        ranks.keep_own_experts(adam);
        for (int step = 0; step < 4; ++step) {
          fill(grad, step, world.rank() >= expert_ranks);  // gradients are those of the first group
          if (world.rank() > 0 && world.rank() < expert_ranks) grad.dense.memory().fill(0);
          ranks.reduce(grad);
          adam.step(model, grad);
          ranks.gather_weights(model, grad);
          ranks.collect_experts(model, adam);
          const auto at = static_cast<std::size_t>(step);
          {
            const std::scoped_lock lock(mutex);
            INFO("ranks " << world.rank() << " of " << P << ", experts over " << expert_ranks << ", step "
                          << step);
            if (world.rank() > 0) {
              CHECK((count_weights(adam) == 0) == (moments.state == OptimizerState::sharded));
            } else {
              CHECK(same(model, weights[at]));
              CHECK(same(adam.first_moment(), first[at]));
              CHECK(same(adam.second_moment(), second[at]));
              CHECK(adam.steps() == counts[at]);
            }
          }
          ranks.keep_own_experts(model), ranks.keep_own_experts(adam);
        }
      });
    }
  const auto whole = [] {
    on_ranks(2, [](ThreadCommunicator& world) {
      Distribution<ThreadCommunicator> ranks(world, 1, OptimizerState::sharded);
      Tree model;
      Adam<Tree> adam;
      ranks.collect_experts(model, adam);
    });
  };
  CHECK(contains(refusal(whole), "moments are whole"));
}

TEST_CASE("a number of ranks that does not fit is rejected") {
  CHECK(contains(refusal([] {
                   on_ranks(3, [](ThreadCommunicator& world) {
                     Distribution<ThreadCommunicator> ranks(world, 2);
                   });
                 }),
                 "2 ranks are to share the experts, but there are 3"));
  CHECK(contains(refusal([] {
                   on_ranks(3, [](ThreadCommunicator& world) {
                     Distribution<ThreadCommunicator> ranks(world, 3);
                     Tree tree;
                     ranks.keep_own_experts(tree);
                   });
                 }),
                 "3 ranks cannot share 4 experts"));
}

TEST_CASE("ranks that start with different weights are found") {
  const auto start = [] {
    on_ranks(2, [](ThreadCommunicator& world) {
      Distribution<ThreadCommunicator> ranks(world);
      Tree tree;
      ranks.check_equal(tree);
      tree.dense[8] = static_cast<float>(world.rank());
      ranks.check_equal(tree);
    });
  };
  CHECK(contains(refusal<std::runtime_error>(start), "ranks have different weights"));
}
