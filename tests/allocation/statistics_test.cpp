// Statistics do not allocate in a training loop. count_test.cpp, in the same program, replaces malloc.
#include "count.hpp"

#include "../support/catch.hpp"

#include <moegpt/moegpt.hpp>

using namespace moegpt;

TEST_CASE("statistics of routing do not allocate after the first forward") {
  using Model = GPT<Config{.vocab = 29, .context = 16, .dim = 24, .layers = 3, .heads = 3, .hidden = 32},
                    TopKRouter<4, 2>>;
  Model model;
  init(model, Key{1});
  Workspace<Model> work{{8, 16}};
  Batch batch{work.shape};
  const std::vector<int> text(1000, 3), label(8 * 16, 1);
  RoutingStatistics<Model> statistics{2};
  long most = 0;
  for (std::uint64_t step = 0; step < 10; ++step) {
    sample_batch(text, batch, Key{2}.with(Purpose::batch, step));
    model.forward(batch, work);
    const long before = allocations;
    statistics.add(model, work, label);
    if (step > 0) most = std::max(most, allocations - before);
    if (step == 5) statistics.clear();
  }
  CHECK(most == 0);
  CHECK(statistics.layers[2].routing.tokens == 4 * 128);
}
