#pragma once
// Counter-based random numbers: a value is a pure function of a key and a counter. So noise and dropout masks
// are the same for any number of threads, and backward regenerates them. The generator is SplitMix64 (Steele,
// Lea, Flood 2014), a hash of its position. Integers are equal on every platform, normals within one build.
#include <moegpt/core/logarithm.hpp>

#include <concepts>
#include <cstdint>

namespace moegpt {
inline namespace MOEGPT_BUILD {

inline constexpr std::uint64_t mix64(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
// The same in each lane.
[[gnu::always_inline]] inline Vector<std::uint64_t> mix64(Vector<std::uint64_t> z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

namespace detail {
// Integers n < 2^52 as doubles: n is the mantissa of 2^52 + n.
[[gnu::always_inline]] inline Vector<double> as_double(const Vector<std::uint64_t>& n) {
  const Vector<std::uint64_t> bits = n | 0x4330000000000000u;
  Vector<double> x;
  std::memcpy(&x, &bits, sizeof x);
  return x - 0x1.0p52;
}
// sqrt x = x r, r = x^-1/2. The first r, from the exponent's bits, is within 4 %; each step r (3 - x r^2) / 2
// (Newton) squares the error.
[[gnu::always_inline]] inline Vector<double> root(const Vector<double>& x) {
  Vector<std::uint64_t> bits;
  std::memcpy(&bits, &x, sizeof x);
  bits = 0x5fe6eb50c7b537a9u - (bits >> 1);
  Vector<double> r;
  std::memcpy(&r, &bits, sizeof r);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) r = r * (1.5 - 0.5 * x * r * r);
  return x * r;
}
}  // namespace detail

// The use of a stream of numbers: different uses of one key have different streams.
enum class Purpose : std::uint64_t {
  embedding_dropout = 1,
  attention_dropout,
  residual_dropout,
  expert_dropout,
  router_noise,
  step,
  layer,
  initial_weights,
  batch,
  sampling,
  evaluation,
  corpus,
  check,
  router_jitter,
  window_order,
  micro_batch,
  cross_attention,
  encoder,
  passages
};

struct Key {
  static constexpr std::uint64_t golden = 0x9e3779b97f4a7c15u;  // 2^64 / golden ratio, odd
  std::uint64_t value = 0;

  template <std::integral Number = int>
  constexpr Key with(Purpose purpose, Number number = 0) const {
    return {mix64(mix64(value + golden * static_cast<std::uint64_t>(purpose)) +
                  static_cast<std::uint64_t>(number))};
  }
  constexpr std::uint64_t bits(std::uint64_t counter) const { return mix64(value + (counter + 1) * golden); }
  // bits(counter) in each lane
  [[gnu::always_inline]] Vector<std::uint64_t> bits(const Vector<std::uint64_t>& counter) const {
    return mix64(value + (counter + 1) * golden);
  }
  // Uniform in [0, 1).
  double uniform(std::uint64_t counter) const { return static_cast<double>(bits(counter) >> 11) * 0x1.0p-53; }
  // x[i] = uniform(first + i) to 52 bits
  template <class T>
  [[gnu::noinline]] void uniforms(std::uint64_t first, T* x, Index n) const {
    constexpr int W = lanes<double>;
    Vector<std::uint64_t> counter = lane_numbers<std::uint64_t>() + first;
    for (Index i = 0; i < n; i += W, counter += W) {
      const Vector<double> draws = detail::as_double(bits(counter) >> 12) * 0x1.0p-52;
      for (int l = 0; l < W && i + l < n; ++l) x[i + l] = static_cast<T>(draws[l]);
    }
  }
  // Standard normal (Box-Muller) of each lane's counter.
  [[gnu::always_inline]] Vector<double> normals(const Vector<std::uint64_t>& counter) const {
    const Vector<std::uint64_t> b = bits(counter);
    const Vector<double> u = (detail::as_double(b >> 32) + 0.5) * 0x1.0p-32;
    // cos(2 pi t) = sin y, y = 2 pi (|t - 1/2| - 1/4) in [-pi / 2, pi / 2], by the Taylor series of the sine
    const Vector<double> t = detail::as_double(b & 0xffffffffu) * 0x1.0p-32 - 0.5;
    const Vector<double> y = 6.283185307179586 * ((t < 0.0 ? -t : t) - 0.25), y2 = y * y;
    struct Terms {
      double of[11];
    };
    constexpr Terms term = [] {
      Terms c{{1}};
      for (int k = 1; k < 11; ++k) c.of[k] = -c.of[k - 1] / (2 * k * (2 * k + 1));
      return c;
    }();
    Vector<double> sine = Vector<double>{} + term.of[10];
#pragma GCC unroll 16
    for (int k = 9; k >= 0; --k) sine = sine * y2 + term.of[k];
    return detail::root(-2.0 * logarithm<double>(u)) * (sine * y);
  }
  // x[i] = normal(first + i)
  template <class T>
  [[gnu::noinline]] void normals(std::uint64_t first, T* x, Index n) const {
    constexpr int W = lanes<double>;
    typedef T Lanes __attribute__((vector_size(W * sizeof(T))));
    Vector<std::uint64_t> counter = lane_numbers<std::uint64_t>() + first;
    for (Index i = 0; i < n; i += W, counter += W) {
      T draws[W];
      const auto converted = __builtin_convertvector(normals(counter), Lanes);
      std::memcpy(draws, &converted, sizeof draws);
      std::memcpy(x + i, draws, sizeof(T) * static_cast<std::size_t>(n - i < W ? n - i : W));
    }
  }
  double normal(std::uint64_t counter) const {
    double x;
    normals(counter, &x, 1);
    return x;
  }
};

// A sequential generator: a key and a counter, which are its whole state. For initial weights, batches,
// sampling.
struct Rng {
  Key key;
  std::uint64_t counter = 0;

  Rng() = default;
  explicit Rng(std::uint64_t seed) : key{mix64(seed)} {}
  explicit Rng(Key k) : key(k) {}

  std::uint64_t bits() { return key.bits(counter++); }
  double uniform() { return key.uniform(counter++); }
  double normal() { return key.normal(counter++); }
  // The next n normals, faster than n calls of normal().
  template <class T>
  void normals(T* x, Index n) {
    check(n >= 0, "Rng::normals was asked for ", n, " numbers: 0 or more are expected");
    key.normals(counter, x, n);
    counter += static_cast<std::uint64_t>(n);
  }
  // Uniform in [0, n), n >= 1.
  std::uint64_t below(std::uint64_t n) {
    check(n > 0, "Rng::below(0): no number is below 0; expected 1 or more");
    __extension__ typedef unsigned __int128 Product;
    return static_cast<std::uint64_t>((static_cast<Product>(bits()) * n) >> 64);
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
