// Training step (zero gradient, forward, backward, Adam): per cent of the FMA peak, tokens per second.
// Names end with the number of threads. For (b) also one block: forward and backward.
#include "support/layers.hpp"
#include "support/table.hpp"
#include "support/workloads.hpp"

#include <cstdio>

using namespace bench;

int main(int argc, char** argv) {
  const auto row = [](const char* model, int rounds, Workload (*make)(int),
                      std::initializer_list<int> threads) {
    for (const int t : threads)
      add(name(model, t), rounds, [=](benchmark::State& state) {
        const Workload w = make(t);
        measure(state, {.flops = w.flops, .tokens = w.tokens, .threads = t}, w.step);
      })->Unit(benchmark::kMillisecond);
  };
  row("a_makemoe", 15, makemoe, {1, 2});
  row("b_gpt2_moe_2_layers", 4, gpt2_moe_two_layers, {1, 2});
  if (memory_available() > 14e9)
    row("b_gpt2_moe_12_layers", 2, gpt2_moe, {1, 2});
  else
    std::fputs("less than 14 GB of memory: the 12-layer model is omitted\n", stderr);
  for (const int t : {1, 2})
    add(name("b_block", t), 10, [=](benchmark::State& state) {
      const LayerWork block = gpt2_moe_block(t);
      measure(state, {.flops = block.flops, .tokens = 1024, .threads = t}, block.call);
    })->Unit(benchmark::kMillisecond);
  row("c_fine_grained_v65", 4, fine_grained, {1, 2});
  row("c_fine_grained_v50257", 4, fine_grained_words, {1});
  row("dense_gpt2_124m", 3, gpt2_dense, {1, 2});
  return bench::run(argc, argv);
}
