// MoE layer by number of experts, at equal FLOPs: time over that with 4 experts.
// Forward and backward, interleaved; K 2, D 128, Dff 512, 8,192 tokens, no optimizer.
#include "support/layers.hpp"
#include "support/table.hpp"

using namespace bench;

int main(int argc, char** argv) {
  for (const int threads : {1, 2})
    for (const int experts : {4, 8, 16, 32, 64})
      add(name("E", experts, threads), 10, [=](benchmark::State& state) {
        const LayerWork few = mixture_of(4, threads), many = mixture_of(experts, threads);
        Work reference(few.call, 0.05, clock_for(threads)), work(many.call, 0.05, clock_for(threads));
        std::vector<double> over, of_peak;
        double before = reference.slice();
        for (auto _ : state) {
          const double time = work.slice();
          of_peak.push_back(many.flops / time / fma_peak<float>(threads, 0.05));
          const double after = reference.slice();
          over.push_back(time / ((before + after) / 2));
          before = after;
          state.SetIterationTime(time);
        }
        state.counters["time over E4"] = median(over);
        state.counters["% of peak"] = 100 * median(of_peak);
      });
  return bench::run(argc, argv);
}
