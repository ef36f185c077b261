#pragma once
// Interleaved timing within Google Benchmark: each iteration is one slice of the work between two probes of a
// peak. The time shown is that of one call; counters are medians.
#include "interleaved.hpp"

#include <benchmark/benchmark.h>

#include <sstream>

namespace bench {

struct Measured {
  double flops = 0;   // of one call; shown as GFLOP/s and per cent of the FMA peak
  double bytes = 0;   // of one call; shown as GB/s
  double tokens = 0;  // of one call; shown as tokens/s
  int threads = 1;
  double slice = 2e-3;  // seconds of work between two probes
};

inline void measure(benchmark::State& state, const Measured& what, std::function<void()> call) {
  Work work(std::move(call), what.slice, clock_for(what.threads));
  const double probe = std::clamp(work.slice_seconds(), 1e-3, 0.2);
  std::vector<double> seconds, of_peak;
  double before = fma_peak<float>(what.threads, probe);
  for (auto _ : state) {
    const double time = work.slice();
    const double after = fma_peak<float>(what.threads, probe);
    seconds.push_back(time);
    of_peak.push_back(what.flops / time / ((before + after) / 2));
    before = after;
    state.SetIterationTime(time);
  }
  const double typical = median(seconds);
  if (what.flops > 0) {
    state.counters["GFLOP/s"] = what.flops / typical * 1e-9;
    state.counters["% of peak"] = 100 * median(of_peak);
  }
  if (what.bytes > 0) state.counters["GB/s"] = what.bytes / typical * 1e-9;
  if (what.tokens > 0) state.counters["tokens/s"] = what.tokens / typical;
}

// name("forward", 64, 1) is forward/64/1.
template <class First, class... Rest>
std::string name(const First& first, const Rest&... rest) {
  std::ostringstream text;
  text << first;
  ((text << '/' << rest), ...);
  return text.str();
}

// A number of rounds instead of a minimal time: each round is long enough.
inline benchmark::internal::Benchmark* add(const std::string& row, int rounds,
                                           std::function<void(benchmark::State&)> run) {
  return benchmark::RegisterBenchmark(row.c_str(), [run = std::move(run)](benchmark::State& s) { run(s); })
      ->Iterations(rounds)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

// Runs all benchmarks that were added.
inline int run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace bench
