// Steps that learn from a teacher, and count and mask experts, do not allocate.
#include "count.hpp"

#include "../support/catch.hpp"

#include <moegpt/model/expert_pruning.hpp>
#include <moegpt/model/gpt.hpp>
#include <moegpt/model/init.hpp>
#include <moegpt/train/corpus.hpp>

#include <memory>

using namespace moegpt;

namespace {
constexpr Config config{.vocab = 29, .context = 8, .dim = 8, .layers = 2, .heads = 2, .hidden = 12};
using Model = GPT<config, TopKRouter<4, 2>>;
}  // namespace

TEST_CASE("no step with a teacher and a mask of experts allocates") {
  const auto teacher = std::make_unique<Model>(), model = std::make_unique<Model>(),
             grad = std::make_unique<Model>();
  init(*teacher, Key{1});
  init(*model, Key{2});
  Model::Workspace work({2, 8}, {.threads = 2}), teacher_work({2, 8}, {.threads = 2}, {}, Use::inference);
  ExpertUse<Model> use;
  ExpertMask<Model> mask;
  mask.apply(work);
  std::vector<int> text(500);
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<int>(i * i % 29);
  Batch batch{{2, 8}};
  sample_batch(text, batch, Key{3});
  work.exec.region([](const Exec&) {});  // starts the threads
  for (int step = 0; step < 4; ++step) {
    const long before = allocations;
    const auto soft = soft_targets(*teacher, batch, teacher_work, {.temperature = 2, .weight = 0.5});
    model->forward(batch, work, {}, work.objective, soft);
    model->backward(batch, work, *grad);
    use.add(*model, work);
    mask.prune(use, step < 2 ? 4 : 3, UseBy::importance);
    CHECK(allocations == before);
  }
}
