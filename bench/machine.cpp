// Peak of fused multiply-adds and memory bandwidth of this machine, with one thread and two.
#include "support/table.hpp"

using namespace bench;

namespace {

template <class T>
void peak(benchmark::State& state, int threads) {
  std::vector<double> rates;
  for (auto _ : state) {
    rates.push_back(fma_peak<T>(threads, 0.05));
    state.SetIterationTime(0.05);
  }
  state.counters["GFLOP/s"] = 1e-9 * median(rates);
}

}  // namespace

int main(int argc, char** argv) {
  for (const int threads : {1, 2}) {
    add(name("fma_float", threads), 15, [=](benchmark::State& s) { peak<float>(s, threads); });
    add(name("fma_double", threads), 15, [=](benchmark::State& s) { peak<double>(s, threads); });
    for (const Index millions : {9, 60}) {
      const std::string size = std::to_string(4 * 4 * millions) + "_MB";
      add(name("triad", size, threads), 10, [=](benchmark::State& s) {
        Streams streams(millions * 1000000);
        measure(s, {.bytes = streams.triad_bytes(), .threads = threads},
                [&] { streams.triad(Exec{threads}); });
      });
      add(name("update", size, threads), 10, [=](benchmark::State& s) {
        Streams streams(millions * 1000000);
        measure(s, {.bytes = streams.update_bytes(), .threads = threads},
                [&] { streams.update(Exec{threads}); });
      });
    }
  }
  return bench::run(argc, argv);
}
