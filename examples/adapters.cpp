// Trains a GPT with experts, then fine-tunes it on another text with adapters (LoRA) alone, and merges them.
// States what that takes, beside fine-tuning of all weights.
#include <moegpt/moegpt.hpp>

#include <chrono>
#include <cstdio>

using namespace moegpt;

constexpr Config config{
    .vocab = 256, .context = 64, .dim = 128, .layers = 4, .heads = 4, .hidden = 128, .adapter_rank = 8};
using Model = GPT<config, TopKRouter<8, 2>>;

double bytes(Index numbers) { return sizeof(float) * static_cast<double>(numbers) / (1 << 20); }

// Trains the weights that have a gradient. Returns the milliseconds of a step.
double train(Model& model, Model& grad, const std::vector<int>& text, Model::Workspace& work, double rate,
             int steps, const char* name) {
  Adam<Model> adam({.learning_rate = rate}, grad);  // moments of what is trained
  Batch batch{work.shape};
  double first = 0, last = 0;
  const auto start = std::chrono::steady_clock::now();
  for (int step = 0; step < steps; ++step) {
    sample_batch(text, batch, Key{3}.with(Purpose::batch, static_cast<std::uint64_t>(step)));
    const double loss = model.forward(batch, work).cross_entropy;
    if (step < 10) first += loss / 10;
    if (step >= steps - 10) last += loss / 10;
    set_zero(grad, work.exec);
    model.backward(batch, work, grad);
    adam.step(model, grad, work.exec);
  }
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
  std::printf("%-9s %8td weights, gradients and moments %6.2f MiB, %6.2f ms a step, loss %.3f -> %.3f\n",
              name, count_weights(grad), bytes(count_weights(grad) + count_weights(adam)),
              time.count() / steps, first, last);
  return time.count() / steps;
}

int main(int count, char** arguments) {
  const int steps = count > 1 ? std::atoi(arguments[1]) : 300;
  const auto text_of = [](std::uint64_t seed) {
    return split_corpus(Dialects({.seed = seed}).generate(500000, Key{1}).text, Tokenizer::bytes()).train;
  };
  const std::vector<int> first = text_of(1), other = text_of(2);  // of other words and another grammar
  Model model, grad;
  init(model, Key{1});
  Model::Workspace work{{.batch = 16, .length = 64}, Exec{.threads = 2}, {.balance = 0.01}};
  freeze(grad, "*.adapter");
  train(model, grad, first, work, 1e-3, steps, "base");

  Model tuned = model;
  merge_adapters(tuned);  // adds nothing yet: it trains as fast as a model without adapters
  train(tuned, grad, other, work, 1e-3, steps, "all");
  freeze_all_but_adapters(grad);
  model.options.adapter_alpha = 16;
  train(model, grad, other, work, 3e-3, steps, "adapters");

  Batch batch{work.shape};
  sample_batch(other, batch, Key{4});
  const double adapted = model.forward(batch, work, {}, Objective{}).cross_entropy;
  const auto merged = merge_adapters(model, work.exec);  // no adapters any more: as fast as without
  std::printf("loss %.9f, merged %.9f", adapted, model.forward(batch, work, {}, Objective{}).cross_entropy);
  unmerge_adapters(model, merged);
  std::printf(", unmerged %.9f\n", model.forward(batch, work, {}, Objective{}).cross_entropy);
}
