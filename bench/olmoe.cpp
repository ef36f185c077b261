// A model of the shape of OLMoE-1B-7B (6.9 G weights, 1.3 G active), with weights drawn straight into
// storage: peak memory, time of writing and reading its file, tokens per second of generation. No Google
// Benchmark: a run takes minutes.
//     build/bench/bench/olmoe bf16|int8 [file]
#include "support/interleaved.hpp"
#include "support/training.hpp"

#include <moegpt/io.hpp>

#include <cstdio>
#include <fstream>
#include <string>

namespace {

using namespace bench;
using Published = presets::olmoe<>;

// Largest resident memory of this process so far, in GiB.
double peak_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == "VmHWM:") {
      double kibibytes = 0;
      status >> kibibytes;
      return kibibytes / (1 << 20);
    }
  return 0;
}

void report(const char* what, double start) {
  std::printf("%-10s %6.1f s, peak memory %.2f GiB\n", what, now(Clock::wall) - start, peak_memory());
  std::fflush(stdout);
}

template <class S>
void run(const char* path) {
  using Model = GPT<Published::config, Published::RouterRecipe, Stored<float, S>>;
  double start = now(Clock::wall);
  Model model;
  model.options = Published::options();
  init(model, Key{1});
  report("init", start);
  const double bytes = bytes_of_weight<Model> * weights_in_products(model);
  std::printf("%.2f G weights, %.2f G active for a token: %.2f GB\n",
              1e-9 * static_cast<double>(count_weights(model)), 1e-9 * weights_in_products(model),
              1e-9 * bytes);
  if (path) {
    Tokenizer tokenizer = Tokenizer::bytes();
    start = now(Clock::wall);
    save(path, model, tokenizer);
    report("save", start);
    start = now(Clock::wall);
    load(path, model, tokenizer);
    report("load", start);
  }
  for (const int threads : {1, 2}) {
    start = now(Clock::wall);
    SequenceBatch<Model> sequences(model, {.piece = 64, .exec = {threads}});
    std::vector<int> ids(64);
    Rng rng(2);
    for (int& id : ids) id = static_cast<int>(rng.below(Model::V));
    auto logits = sequences.read(0, ids);
    report("prompt", start);
    int id = 0;
    const auto next = [&] {
      const float* z = logits[0];
      id = static_cast<int>(std::max_element(z, z + Model::V) - z);
      logits = sequences.step({&id, 1});
    };
    Reading reading;
    bench::Alternation turn;
    const Clock clock = clock_for(threads);
    const int read = turn.add(reading.bytes(), [&] { reading.read(Exec{threads}); }, 0.05, clock);
    const int step = turn.add(bytes, next, 0.5, clock);
    turn.run(9);
    std::printf("%d thread%s: %.1f tokens/s, %.1f of %.1f GB/s: %.0f %%\n", threads, threads == 1 ? "" : "s",
                turn.rate(step) / bytes, 1e-9 * turn.rate(step), 1e-9 * turn.rate(read),
                100 * turn.ratio(step, read));
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string storage = argc > 1 ? argv[1] : "";
  const char* const path = argc > 2 ? argv[2] : nullptr;
  if (storage == "bf16") return run<BF16>(path), 0;
  if (storage == "int8") return run<INT8>(path), 0;
  std::fprintf(stderr, "usage: olmoe bf16|int8 [file]\n");
  return 2;
}
