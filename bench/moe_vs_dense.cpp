// MoE layer over a dense feed-forward network of equal active FLOPs. Forward and backward, interleaved.
#include "support/layers.hpp"
#include "support/table.hpp"

using namespace bench;

int main(int argc, char** argv) {
  for (const auto& [mixture_name, make] :
       {std::pair{"E8_K2_Dff1024", &few_large_experts}, {"E64_K8_Dff256", &many_small_experts}})
    for (const int threads : {1, 2})
      add(name(mixture_name, threads), 10, [=, make = make](benchmark::State& state) {
        const Pair pair = make(threads);
        Work dense(pair.dense.call, 0.05, clock_for(threads));
        std::vector<double> over;
        Work mixture(pair.mixture.call, 0.05, clock_for(threads));
        double before = dense.slice();
        for (auto _ : state) {
          const double time = mixture.slice(), after = dense.slice();
          over.push_back(time / ((before + after) / 2));
          before = after;
          state.SetIterationTime(time);
        }
        state.counters["mixture/dense"] = median(over);
      });
  return bench::run(argc, argv);
}
