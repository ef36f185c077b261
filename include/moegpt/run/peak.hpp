#pragma once
// Speed of training: the measured peak of the processor, the FLOPs of a step, and means over steps.
#include <moegpt/core/simd.hpp>
#include <moegpt/model/gpt.hpp>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace fma {

// More chains than latency x units of a core, so only the number of units limits the rate.
inline constexpr int chains = MOEGPT_VECTOR_BYTES == 64 ? 24 : 12;

// n links in each of the chains a = a b + c in registers: 2 n chains lanes<T> FLOPs.
template <class T>
#if defined(__clang__) && MOEGPT_VECTOR_BYTES == 64
[[clang::min_vector_width(512)]]  // otherwise clang splits vectors on some processors
#endif
[[gnu::noinline]] T
run_chains(T b_, Index n) {
  const Vector<T> b = Vector<T>{} + b_, c = Vector<T>{} + (1 - b_);
  Vector<T> a[chains];
  for (int i = 0; i < chains; ++i) a[i] = Vector<T>{} + T(i);
  for (Index k = 0; k < n; ++k)
#pragma GCC unroll 24
    for (int i = 0; i < chains; ++i) a[i] = a[i] * b + c;
  for (int i = 1; i < chains; ++i) a[0] += a[i];
  return sum_lanes<T>(a[0]);
}

// FLOP/s of `threads` threads over `seconds`: the sum of the rates of each thread, by the clock now(). Uses
// std::thread, not Exec, so that the probe is independent of the library's threads. Throws std::system_error
// if a thread cannot be started.
template <class T, class Now>
double rate(int threads, double seconds, Now now) {
  constexpr Index links = 10000;  // about 50 us
  constexpr double flops = 2.0 * links * chains * lanes<T>;
  std::atomic<int> ready{0};
  std::atomic<T> sink{0};
  volatile T factor = T(0.999);  // unknown to the compiler, so no call is optimised away
  std::vector<double> rates(static_cast<std::size_t>(threads));
  const auto burn = [&](int thread) {
    ++ready;
    while (ready < threads) std::this_thread::yield();
    const double start = now();
    double done = 0, time = 0;
    do {
      sink = run_chains<T>(factor, links);
      done += flops;
    } while ((time = now() - start) < seconds);
    rates[static_cast<std::size_t>(thread)] = done / time;
  };
  std::vector<std::thread> others;
  try {
    for (int i = 1; i < threads; ++i) others.emplace_back(burn, i);
  } catch (...) {
    ready = threads;  // those that were started wait for no more
    for (auto& t : others) t.join();
    throw;
  }
  burn(0);
  for (auto& t : others) t.join();
  double sum = 0;
  for (const double r : rates) sum += r;
  return sum;
}

}  // namespace fma

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Peak of fused multiply-adds in FLOP/s: the fastest of `rounds` slices, because other programs only slow it.
template <class T>
double measured_peak(int threads, int rounds = 5, double slice = 0.03) {
  check(threads >= 1 && rounds >= 1, "measured_peak: ", threads, " threads and ", rounds,
        " rounds, expected at least 1 of each");
  double peak = 0;
  for (int i = 0; i < rounds; ++i) peak = std::max(peak, fma::rate<T>(threads, slice, seconds_now));
  return peak;
}

// Weights that enter a product for one token: an expert's count K / E, look-ups do not count, a tied head
// counts once.
template <class Model>
double weights_in_products(const Model& model) {
  static constexpr Config C = Model::config;
  double weights = 0;
  for_each_named_weight(
      [&](const std::string& path, Kind kind, const auto& w) {
        if (w.shape.size() < 2 || path.starts_with("position_embedding")) return;
        if (path.starts_with("token_embedding") && !C.tied) return;
        double share = 1;
        if constexpr (Model::has_experts)
          if (kind == Kind::sparse)
            share = static_cast<double>(Model::RouterRecipe::active) / Model::RouterRecipe::experts;
        weights += share * static_cast<double>(w.size());
      },
      model);
  return weights;
}
// Model FLOPs of one training step (PaLM's convention): per token 6 for each weight in a product, and 3 times
// the causal attention of a forward, which has 2 (T + 1) heads x width. Nothing is dropped or recomputed.
template <class Model>
double model_flops(const Model& model, Shape shape) {
  constexpr Config C = Model::config;
  const double attention =
      2.0 * C.layers * C.heads * C.attention().width() * static_cast<double>(shape.length + 1);
  return static_cast<double>(shape.tokens()) * (6 * weights_in_products(model) + 3 * attention);
}

// Speed of training steps as exponential means with factor 0.95, divided by the sum of their weights (as in
// llm.c). The first step is not counted: it touches memory for the first time.
class Speed {
 public:
  void add(double seconds, Index tokens) {
    if (steps_++ == 0) {
      first_ = seconds, first_tokens_ = static_cast<double>(tokens);
      return;
    }
    seconds_ = 0.95 * seconds_ + 0.05 * seconds;
    tokens_ = 0.95 * tokens_ + 0.05 * static_cast<double>(tokens);
    weight_ = 0.95 * weight_ + 0.05;
  }
  double seconds_per_step() const { return steps_ < 2 ? first_ : seconds_ / weight_; }
  double tokens_per_second() const {
    const double seconds = steps_ < 2 ? first_ : seconds_;
    return seconds > 0 ? (steps_ < 2 ? first_tokens_ : tokens_) / seconds : 0;
  }

 private:
  Index steps_ = 0;
  double first_ = 0, first_tokens_ = 0, seconds_ = 0, tokens_ = 0, weight_ = 0;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
