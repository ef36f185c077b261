#include <moegpt/train/evaluate.hpp>
#include <moegpt/model/init.hpp>
#include <moegpt/routing/top_k_router.hpp>
#include <moegpt/train/progress.hpp>

#include "support/catch.hpp"

using namespace moegpt;

namespace {
constexpr Config config{.vocab = 7, .context = 5, .dim = 8, .layers = 2, .heads = 2, .hidden = 12};
using Model = GPT<config, TopKRouter<4, 2>, double>;
const std::vector<int> text{1, 2, 3, 4, 5, 6, 0, 1, 3, 5, 0, 2, 4, 6, 1, 1, 2, 2};
}  // namespace

TEST_CASE("evaluate is the mean over every token of its window's loss") {
  Model model;
  init(model, Key{3});
  Model::Workspace work{{2, 5}, {}, {.balance = 1}, Use::inference};
  double total = 0;
  for (std::size_t start = 0; start + 1 < text.size(); start += 5) {  // one window at a time
    const std::size_t n = std::min<std::size_t>(5, text.size() - 1 - start);
    Batch batch{{1, static_cast<Index>(n)},
                {text.begin() + start, text.begin() + start + n},
                {text.begin() + start + 1, text.begin() + start + n + 1},
                {}};
    total += model.forward(batch, work).cross_entropy * static_cast<double>(n);
  }
  // Sums of 17 losses in another order: a few units in the last place.
  CHECK(std::abs(evaluate(model, std::span<const int>(text), work) - total / 17) < 1e-13);
  CHECK(work.objective.balance == 1);
}

TEST_CASE("an error in an evaluation leaves the workspace's objective as it was") {
  Model model;
  init(model, Key{3});
  Model::Workspace work{{3, 4}, {}, {.dropout = 0.5, .balance = 1}};
  const std::vector<int> wrong{1, 2, 3, 4, 5, 6, 99, 1, 3, 5};
  CHECK_THROWS_AS(evaluate(model, std::span<const int>(wrong), work), std::invalid_argument);
  CHECK_THROWS_AS(estimate_loss(model, wrong, work, 50, Key{9}), std::invalid_argument);
  CHECK(work.objective.dropout == 0.5);
  CHECK(work.objective.balance == 1);
}

TEST_CASE("an estimate depends on its key alone, and leaves the objective as it was") {
  Model model;
  init(model, Key{3});
  Model::Workspace work{{3, 4}, {}, {.dropout = 0.5}, Use::inference};
  const double first = estimate_loss(model, text, work, 4, Key{9});
  CHECK(first == estimate_loss(model, text, work, 4, Key{9}));
  CHECK(first != estimate_loss(model, text, work, 4, Key{10}));
  CHECK(work.objective.dropout == 0.5);
}

TEST_CASE("an estimate over no batches is rejected") {
  Model model;
  Model::Workspace work{{2, 5}};
  for (const int batches : {0, -1})
    CHECK_THROWS_WITH(estimate_loss<Model>(model, text, work, batches, Key{1}),
                      ContainsSubstring("at least 1 is needed"));
}
