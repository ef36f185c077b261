#pragma once
// Method of timing. On a shared machine speed may change within seconds, so figures of different times cannot
// be compared. Therefore
//   - compared functions run interleaved, in one process, in short slices: A B C A B C ... A;
//   - a slice of A is divided by the mean of the slices of B before and after it;
//   - the figure is the median of these ratios over all rounds.
// Probes of a peak (peak.hpp) are such functions. Per cent of peak is a ratio; GFLOP/s is a median of slices
// and holds only for the time of measurement.
#include "peak.hpp"

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>

namespace bench {

inline double median(std::vector<double> x) {
  if (x.empty()) return 0;
  const auto middle = x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2);
  std::nth_element(x.begin(), middle, x.end());
  if (x.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(x.begin(), middle)) / 2;
}

// A function that is called repeatedly, in slices of at least `slice` seconds.
class Work {
 public:
  Work(std::function<void()> call, double slice, Clock clock = Clock::thread)
      : call_(std::move(call)), clock_(clock) {
    call_();  // warm-up
    double time = run(1);
    while (time < slice / 4 && calls_ < (Index{1} << 30)) time = run(calls_ *= 2);  // too short for the clock
    calls_ = std::max<Index>(1, static_cast<Index>(static_cast<double>(calls_) * slice / time));
  }
  // Seconds per call, mean over one slice.
  double slice() { return run(calls_) / static_cast<double>(calls_); }
  double slice_seconds() { return run(calls_); }

 private:
  double run(Index calls) {
    const double start = now(clock_);
    for (Index i = 0; i < calls; ++i) call_();
    return now(clock_) - start;
  }
  std::function<void()> call_;
  Clock clock_;
  Index calls_ = 1;
};

// Functions to compare; each runs one slice and returns a rate.
class Alternation {
 public:
  using Slice = std::function<double()>;
  double pause = 0;  // seconds of sleep before each slice, until spinning threads of another function block

  int add(Slice slice) {
    slices_.push_back(std::move(slice));
    return static_cast<int>(slices_.size()) - 1;
  }
  // `amount` of work per call, in slices of at least `seconds`.
  int add(double amount, std::function<void()> call, double seconds = 2e-3, Clock clock = Clock::thread) {
    return add(
        [amount, work = Work(std::move(call), seconds, clock)]() mutable { return amount / work.slice(); });
  }
  int add_peak(int threads = 1, double seconds = 2e-3, Clock clock = Clock::thread) {
    return add([=] { return fma_peak<float>(threads, seconds, clock); });
  }
  // The first function runs once more at the end, so that every slice of another is between two of its
  // slices.
  void run(int rounds) {
    rates_.assign(slices_.size(), {});
    for (int r = 0; r < rounds; ++r)
      for (std::size_t i = 0; i < slices_.size(); ++i) take(i);
    take(0);
  }
  double rate(int a) const { return median(of(a)); }
  std::vector<double> ratios(int a, int b) const {
    std::vector<double> result;
    const auto &x = of(a), &y = of(b);
    for (std::size_t r = 0; r < std::min(x.size(), y.size()); ++r) {
      const std::size_t other = b < a ? std::min(r + 1, y.size() - 1) : r > 0 ? r - 1 : 0;
      result.push_back(x[r] / ((y[r] + y[other]) / 2));
    }
    return result;
  }
  double ratio(int a, int b) const { return median(ratios(a, b)); }
  double rate(int a, int round) const { return of(a)[static_cast<std::size_t>(round)]; }

 private:
  void take(std::size_t i) {
    if (pause > 0) std::this_thread::sleep_for(std::chrono::duration<double>(pause));
    rates_[i].push_back(slices_[i]());
  }
  const std::vector<double>& of(int i) const { return rates_[static_cast<std::size_t>(i)]; }
  std::vector<Slice> slices_;
  std::vector<std::vector<double>> rates_;
};

}  // namespace bench
