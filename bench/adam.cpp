// AdamW step: per cent of the bandwidth of an in-place update of four streams of the same size.
#include "support/adam_run.hpp"
#include "support/table.hpp"

using namespace bench;

namespace {

template <class Tree>
void row(const char* size) {
  for (const int threads : {1, 2})
    add(name(size, threads), 1, [=](benchmark::State& state) {
      AdamFigures f{};
      for (auto _ : state) {
        f = adam_interleaved<Tree>(threads, 20);
        state.SetIterationTime(f.seconds);
      }
      state.counters["GB/s"] = 28e-9 * f.weights / f.seconds;
      state.counters["% of update"] = 100 * f.of_bandwidth;
      state.counters["weights"] = f.weights;
    });
}

}  // namespace

int main(int argc, char** argv) {
  row<NineMillion>("9M");
  row<SixtyMillion>("60M");
  return bench::run(argc, argv);
}
