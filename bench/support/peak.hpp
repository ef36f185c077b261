#pragma once
// Probes of the peak of fused multiply-adds and of memory bandwidth, to be interleaved with measurements
// (interleaved.hpp), because the speed of a shared machine changes.
#include <moegpt/core/exec.hpp>
#include <moegpt/core/simd.hpp>

#include <atomic>
#include <ctime>
#include <thread>
#include <vector>

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

// n links in each of many chains a = a b + c in registers. There are more chains than latency x units of a
// core, so only the number of units limits the rate.
template <class T>
inline constexpr int chains = MOEGPT_VECTOR_BYTES == 64 ? 24 : 12;
template <class T>
#if defined(__clang__) && MOEGPT_VECTOR_BYTES == 64
[[clang::min_vector_width(512)]]  // otherwise clang splits vectors on some processors
#endif
[[gnu::noinline]] T
fma_chains(T b_, Index n) {
  const Vector<T> b = Vector<T>{} + b_, c = Vector<T>{} + (1 - b_);
  Vector<T> a[chains<T>];
  for (int i = 0; i < chains<T>; ++i) a[i] = Vector<T>{} + T(i);
  for (Index k = 0; k < n; ++k)
#pragma GCC unroll 24
    for (int i = 0; i < chains<T>; ++i) a[i] = a[i] * b + c;
  for (int i = 1; i < chains<T>; ++i) a[0] += a[i];
  return sum_lanes<T>(a[0]);
}

// FLOP/s of `threads` threads over `seconds`: the sum of the rates of each thread. Uses std::thread, not
// Exec, so that the probe is independent of the library.
template <class T>
double fma_peak(int threads, double seconds, Clock clock) {
  constexpr Index links = 10000;  // about 50 us
  constexpr double flops = 2.0 * links * chains<T> * lanes<T>;
  std::atomic<int> ready{0};
  std::atomic<T> sink{0};
  volatile T factor = T(0.999);  // unknown to the compiler, so no call is optimised away
  std::vector<double> rate(static_cast<std::size_t>(threads));
  const auto burn = [&](int thread) {
    ++ready;
    while (ready < threads) std::this_thread::yield();
    const double start = now(clock);
    double done = 0, time = 0;
    do {
      sink = fma_chains<T>(factor, links);
      done += flops;
    } while ((time = now(clock) - start) < seconds);
    rate[static_cast<std::size_t>(thread)] = done / time;
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(burn, i);
  burn(0);
  for (auto& t : others) t.join();
  double sum = 0;
  for (double r : rate) sum += r;
  return sum;
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
