#include <moegpt/core/random.hpp>
#include <moegpt/core/runs.hpp>

#include "support/catch.hpp"

#include <memory>
#include <vector>

using namespace moegpt;

namespace {

struct Tree {
  Weight<float, 50, 41> matrix;
  Weight<float, 3> vector;
  Weight<float, 16> counts;
  std::array<Weight<float, 7, 5>, 3> experts;
  static constexpr auto fields() {
    return Fields{Field{"matrix", &Tree::matrix}, Field{"vector", &Tree::vector},
                  Field{"counts", &Tree::counts, Kind::buffer},
                  Field{"experts", &Tree::experts, Kind::sparse}};
  }
};

// More weights than one batch of runs.
struct Forest {
  std::array<Tree, 250> trees;
  static constexpr auto fields() { return Fields{Field{"trees", &Forest::trees}}; }
};

auto everything = [](Kind, const auto&) { return true; };

}  // namespace

TEST_CASE("chunks of any size cover every element of every run once, and begin at a whole line") {
  std::vector<WeightRun<int>> runs;
  std::vector<std::vector<int>> numbers;
  for (const int size : {100, 1, 0, 16, 17, 0, 300, 5}) {
    numbers.emplace_back(static_cast<std::size_t>(size));
    runs.push_back({numbers.back().data(), size, lines_of(size) + (runs.empty() ? 0 : runs.back().end)});
  }
  for (const Index limit : {1, 2, 3, 7, 1000}) {
    const Pieces pieces{runs.back().end, limit};
    for (Index i = 0; i < pieces.size(); ++i)
      for_each_run(std::span<const WeightRun<int>>(runs), pieces[i], [&](const WeightRun<int>& run, Rows r) {
        CHECK(r.first % run_line == 0);
        for (Index n = r.first; n < r.first + r.count; ++n) ++run.data[n];
      });
    for (auto& list : numbers) {
      CHECK(list == std::vector<int>(list.size(), 1));
      std::fill(list.begin(), list.end(), 0);
    }
  }
}

TEST_CASE("batches hold every selected weight once, and no empty one, for any number of weights") {
  const auto forest = std::make_unique<Forest>();
  forest->trees[7].matrix.release();
  Index batches = 0, numbers = 0;
  auto no_buffers = [](Kind kind, const auto&) { return kind != Kind::buffer; };
  const Forest& tree = *forest;
  for_each_batch_of_runs<const float>(tree, no_buffers, [&](std::span<const WeightRun<const float>> runs) {
    ++batches;
    Index end = 0;
    for (const auto& run : runs) {
      CHECK(run.end == (end += lines_of(run.size)));
      numbers += run.size;
    }
  });
  CHECK(batches == 2);
  CHECK(numbers == 250 * (50 * 41 + 3 + 3 * 35) - 50 * 41);
  for_each_weight([](auto& w) { w.release(); }, *forest);
  for_each_batch_of_runs<float>(*forest, everything, [&](auto) { ++batches; });
  CHECK(batches == 2);
}

TEST_CASE("parallel set_zero clears what serial set_zero does: elements, buffers and marks") {
  for (const int threads : {1, 2, 3}) {
    Tree tree;
    tree.vector.release();
    for_each_weight(
        [](auto& w) {
          for (float& x : w) x = 1;
          w.touched = true;
        },
        tree);
    set_zero(tree, Exec{threads});
    for_each_weight(
        [](auto& w) {
          CHECK(std::all_of(w.begin(), w.end(), [](float x) { return x == 0; }));
          CHECK_FALSE(w.touched);
        },
        tree);
    CHECK(tree.vector.empty());
  }
}

TEST_CASE(
    "add adds every element once with any number of threads, joins marks, and skips buffers and empty "
    "weights") {
  const auto make = [](std::uint64_t seed) {
    auto forest = std::make_unique<Forest>();
    Rng rng(seed);
    for_each_weight(
        [&](auto& w) {
          for (auto& x : w) x = static_cast<float>(rng.normal());
        },
        *forest);
    return forest;
  };
  const auto start = make(1), from = make(2);
  start->trees[3].experts[0].touched = true;
  start->trees[3].matrix.release();
  from->trees[3].experts[1].touched = true;
  from->trees[4].vector.release();
  for (const int threads : {1, 2, 5}) {
    auto into = std::make_unique<Forest>(*start);
    add(*into, *from, {threads});
    for_each_weight_of_kind(
        [&](Kind kind, const auto& sum, const auto& a, const auto& b) {
          REQUIRE(sum.size() == a.size());
          const bool added = kind != Kind::buffer && !a.empty() && !b.empty();
          bool right = true;
          for (Index i = 0; i < sum.size(); ++i) right = right && sum[i] == (added ? a[i] + b[i] : a[i]);
          REQUIRE(right);
        },
        *into, *start, *from);
    CHECK(into->trees[3].experts[0].touched);
    CHECK(into->trees[3].experts[1].touched);
    CHECK_FALSE(into->trees[3].experts[2].touched);
    CHECK_FALSE(from->trees[3].experts[0].touched);
  }
}
