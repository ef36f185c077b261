#pragma once
// Probes of the peak of fused multiply-adds and of memory bandwidth, to be interleaved with measurements
// (interleaved.hpp), because the speed of a shared machine changes.
#include <moegpt/run/peak.hpp>

#include <ctime>

namespace bench {
using namespace moegpt;

// One thread is timed by CPU time, which excludes other processes. Several threads wait for each other, so
// they are timed by wall-clock time.
enum class Clock { wall, thread };
inline Clock clock_for(int threads) { return threads == 1 ? Clock::thread : Clock::wall; }
inline double now(Clock clock) {
  timespec t;
  clock_gettime(clock == Clock::wall ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// FLOP/s of fused multiply-adds of `threads` threads over `seconds`.
template <class T>
double fma_peak(int threads, double seconds, Clock clock) {
  return fma::rate<T>(threads, seconds, [=] { return now(clock); });
}
template <class T>
double fma_peak(int threads, double seconds) {
  return fma_peak<T>(threads, seconds, clock_for(threads));
}

// Four arrays of n elements.
class Streams {
 public:
  explicit Streams(Index n) : g_(n), w_(n), m_(n), v_(n) {
    for (auto* a : {&g_, &w_, &m_, &v_}) a->fill(1);
  }
  // a = b + s c: two streams read, one written. Bytes without write-allocate, as in STREAM.
  double triad_bytes() const { return 12.0 * static_cast<double>(g_.size()); }
  void triad(const Exec& exec) {
    walk(exec, [](float* w, float* m, float* v, const float*) { store(w, load(m) + load(v) * 0.5f); });
  }
  // Access pattern of Adam: four streams read, three of them written in place, little arithmetic.
  double update_bytes() const { return 28.0 * static_cast<double>(g_.size()); }
  void update(const Exec& exec) {
    walk(exec, [](float* w, float* m, float* v, const float* g) {
      const Vector<float> gi = load(g), mi = load(m) * 0.9f + gi, vi = load(v) * 0.9f + gi;
      store(m, mi);
      store(v, vi);
      store(w, load(w) - (mi + vi) * 1e-6f);
    });
  }

 private:
  template <class F>
  void walk(const Exec& exec, F f) {
    for_each_piece(exec, g_.size() / lanes<float>, 1 << 14, [&](Rows r) {
      for (Index i = r.first * lanes<float>; i < (r.first + r.count) * lanes<float>; i += lanes<float>)
        f(w_.data() + i, m_.data() + i, v_.data() + i, g_.data() + i);
    });
  }
  Buffer<float> g_, w_, m_, v_;
};

// Many numbers that are read in the order in which they lie, as weights are in generation.
class Reading {
 public:
  explicit Reading(Index n = 60000000) : x_(n) { x_.fill(1); }
  double bytes() const { return 4.0 * static_cast<double>(x_.size()); }
  void read(const Exec& exec) {
    constexpr Index step = 8 * lanes<float>;
    for_each_piece(exec, x_.size() / step, 1 << 13, [&](Rows r) {
      Vector<float> sum[8] = {};
      for (const float* p = x_.data() + r.first * step; p < x_.data() + (r.first + r.count) * step; p += step)
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) sum[i] += load(p + i * lanes<float>);
      for (int i = 1; i < 8; ++i) sum[0] += sum[i];
      sink_ = sum_lanes<float>(sum[0]);
    });
  }

 private:
  Buffer<float> x_;
  std::atomic<float> sink_{0};
};

}  // namespace bench
