// Neither a step nor a generated token of an encoder-decoder model allocates after its workspace exists.
#include <moegpt/generate/generator.hpp>
#include <moegpt/model/encoder_decoder.hpp>
#include <moegpt/model/init.hpp>
#include <moegpt/routing/top_k_router.hpp>
#include <moegpt/train/adam.hpp>

#include "../support/catch.hpp"
#include "count.hpp"

using namespace moegpt;

namespace {
constexpr Config source{
    .vocab = 11, .context = 9, .dim = 16, .layers = 2, .heads = 2, .hidden = 12, .mask = Mask::full};
constexpr Config target{.vocab = 13, .context = 7, .dim = 12, .layers = 2, .heads = 3, .hidden = 10};
using Model = EncoderDecoder<source, TopKRouter<4, 2>, target, TopKRouter<3, 2>>;
}  // namespace

TEST_CASE("steps of an encoder-decoder model on two threads do not allocate, nor do generated tokens") {
  Model model, grad;
  init(model, Key{1}, Init::makemoe);
  Adam<Model> adam;
  Model::Workspace work({4, 9}, {4, 7}, {.threads = 2}, {.dropout = 0.1, .balance = 0.01, .z = 0.001});
  PairBatch batch{{{4, 9}, std::vector<int>(36, 1), {}, {}, {9, 3, 1, 5}},
                  {{4, 7}, std::vector<int>(28, 2), std::vector<int>(28, 3), {}, {7, 1, 4, 6}}};
  const auto step = [&] {
    model.forward(batch, work, Key{1});
    set_zero(grad, work.exec);
    model.backward(batch, work, grad);
    adam.step(model, grad, work.exec);
  };
  work.exec.region([](const Exec&) {});  // starts the threads
  const long before_first = allocations;
  model.forward(batch, work, Key{1});
  model.backward(batch, work, grad);
  CHECK(allocations == before_first);
  step();  // Adam's first
  const long before = allocations;
  for (int i = 0; i < 10; ++i) {
    batch.source.lengths[1] = 1 + i % 9;
    batch.target.inputs[static_cast<std::size_t>(i)] = i;
    step();
  }
  CHECK(allocations == before);

  Generator<Model> generator(model, {}, Rng(1), {.threads = 2});
  const int ids[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const long before_tokens = allocations;
  for (int text = 1; text <= 2; ++text) {
    generator.read_source({ids, static_cast<std::size_t>(4 * text)});
    int id = generator.next(0);
    for (int i = 0; i < 20; ++i) id = generator.next(id);
  }
  CHECK(allocations == before_tokens);
}
