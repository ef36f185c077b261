// Times training steps of one workload on command, as step.py does; step.py documents the protocol.
//   ours --workload a|b|b2|c|cv|dense --threads N [--warmup N]
#include <moegpt/moegpt.hpp>

#ifdef __SSE__
#include <immintrin.h>
#endif

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "../../examples/options.hpp"

using namespace moegpt;

namespace {

struct Recipe {
  Shape shape;
  double learning_rate = 3e-4;
  double dropout = 0;
  bool noisy = false;  // the router's noise
  ModelOptions options{};
  Init init = Init::gpt2;
};

constexpr Config makemoe{.vocab = 65,
                         .context = 32,
                         .dim = 128,
                         .layers = 8,
                         .heads = 8,
                         .activation = Activation::relu,
                         .head_bias = true};
constexpr Config gpt2(int layers, int context) {
  return {.vocab = 50257,
          .context = context,
          .dim = 768,
          .layers = layers,
          .heads = 12,
          .attention_bias = true,
          .tied = true};
}
constexpr Config fine(int vocab) {
  return {.vocab = vocab, .context = 256, .dim = 512, .layers = 8, .heads = 8, .hidden = 256, .tied = true};
}

double milliseconds() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// The ids of models.py, as frequent as Zipf's law has words: P(id) ~ 1 / (id + 1).
Batch make_batch(Shape shape, int vocab, std::uint64_t number) {
  Batch batch{shape};
  std::uint64_t i = 0;
  auto draw = [&] {
    return std::min(vocab, static_cast<int>(std::pow(vocab + 1.0, Key{number}.uniform(i++)))) - 1;
  };
  for (Index b = 0; b < shape.batch; ++b) {
    int id = draw();
    for (Index t = 0; t < shape.length; ++t) {
      batch.inputs.push_back(id);
      batch.targets.push_back(id = draw());
    }
  }
  return batch;
}

template <class Model>
double kept_share(const typename Model::Workspace& work) {
  double kept = 0, wanted = 0;
  if constexpr (Model::has_experts)
    for (int layer = 0; layer < Model::config.layers; ++layer)
      work.tape.trunk.blocks.at_layer(layer, [&](const auto& block) {
        if constexpr (requires { block.mixture.plan; }) {
          kept += static_cast<double>(block.mixture.plan.slot_count());
          wanted += static_cast<double>(block.mixture.plan.slot_count() + block.mixture.plan.dropped());
        }
      });
  return wanted > 0 ? kept / wanted : 1;
}

void print(const char* before, const std::vector<double>& numbers) {
  std::printf("%s", before);
  for (std::size_t i = 0; i < numbers.size(); ++i) std::printf("%s%.4f", i > 0 ? ", " : "", numbers[i]);
}

template <class Model>
void run(const Recipe& recipe, int threads, int warmup) {
  const Exec exec{threads};
  const Key seed{1337};
  const auto model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  init(*model, seed, recipe.init);
  model->options = recipe.options;
  Adam<Model> adam{{.learning_rate = recipe.learning_rate, .weight_decay = 0.01}};
  typename Model::Workspace work{recipe.shape, exec, {.dropout = recipe.dropout}};
  std::vector<Batch> batches;
  for (std::uint64_t number = 0; number < 8; ++number)
    batches.push_back(make_batch(recipe.shape, Model::config.vocab, number));

  std::uint64_t steps = 0;
  auto step = [&] {
    const Batch& batch = batches[steps % batches.size()];
    std::optional<Key> key;
    if (recipe.noisy) key = seed.with(Purpose::step, steps);
    ++steps;
    const Loss loss = model->forward(batch, work, key);
    set_zero(*grad);
    model->backward(batch, work, *grad);
    adam.step(*model, *grad, exec);
    return loss.cross_entropy;
  };

  const double first = step();
  for (int i = 1; i < warmup; ++i) step();
  std::printf(
      "{\"name\": \"moegpt %s\", \"form\": \"%s\", \"threads\": %d, \"parameters\": %td, \"loss\": %.6f}\n",
      build_info().version, build_info().simd, threads, count_weights(*model), first);
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "kept") {
      std::printf("{\"kept\": %.6f}\n", kept_share<Model>(work));
    } else {
      double loss = 0;
      std::vector<double> times, cpu_times;
      int count = 0;
      check(line.find(' ') != line.npos && options::read(line.substr(line.find(' ') + 1), count) && count > 0,
            "was told '", line, "', expected 'kept', or a word and how many steps to time");
      for (int i = 0; i < count; ++i) {
        const double start = milliseconds();
        const std::clock_t cpu_start = std::clock();
        loss = step();
        times.push_back(milliseconds() - start);
        cpu_times.push_back(1e3 * static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC);
      }
      print("{\"ms\": [", times);
      print("], \"cpu_ms\": [", cpu_times);
      std::printf("], \"loss\": %.6f}\n", loss);
    }
    std::fflush(stdout);
  }
}

void start(const std::string& workload, int threads, int warmup) {
  const Recipe large{.shape = {4, 256}};
  if (workload == "a")
    return run<GPT<makemoe, NoisyTopKRouter<8, 2, NoisyTopK{.bias = true}>>>(
        {.shape = {16, 32},
         .learning_rate = 1e-3,
         .dropout = 0.1,
         .noisy = true,
         .options = {.attention_scale = 0.08838834764831845, .capacity_factor = 1},
         .init = Init::makemoe},
        threads, warmup);  // the scale: 1 / sqrt(128)
  if (workload == "b") return run<GPT<gpt2(12, 256), TopKRouter<8, 2>>>(large, threads, warmup);
  if (workload == "b2") return run<GPT<gpt2(2, 256), TopKRouter<8, 2>>>(large, threads, warmup);
  if (workload == "c") return run<GPT<fine(65), TopKRouter<64, 8>>>(large, threads, warmup);
  if (workload == "cv") return run<GPT<fine(50257), TopKRouter<64, 8>>>(large, threads, warmup);
  run<GPT<gpt2(12, 64)>>({.shape = {4, 64}}, threads, warmup);  // dense
}

}  // namespace

int main(int argc, char** argv) {
#ifdef __SSE__
  _mm_setcsr(_mm_getcsr() |
             0x8040);  // denormals are zero, in this thread and in those it starts: as in step.py
#endif
  CLI::App app("Times training steps of one workload, when told to", "ours");
  std::string workload = "a";
  int threads = 1, warmup = 3;
  app.add_option("--workload", workload, "a (default), b, b2, c, cv or dense")
      ->check(CLI::IsMember({"a", "b", "b2", "c", "cv", "dense"}));
  app.add_option("--threads", threads, "Default 1")->check(options::threads());
  app.add_option("--warmup", warmup, "Steps before it listens (default 3)")->check(options::whole(1));
  return options::run(app, argc, argv, [&] { start(workload, threads, warmup); });
}
