#pragma once
// Counter-based randomness: a number is a pure function of a key and a counter, so noise and dropout masks are
// the same for any number of threads and are regenerated in backward instead of stored. The generator is
// SplitMix64 (Steele, Lea, Flood 2014), which is a hash of its position. Integers agree on every platform,
// normals within one build.
#include <moegpt/core/matrix.hpp>

#include <cmath>
#include <cstdint>

namespace moegpt::inline MOEGPT_BUILD {

inline constexpr std::uint64_t mix64(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// What a stream is for: no two uses of one key may share numbers.
enum class Purpose : std::uint64_t {
  embedding_dropout = 1, attention_dropout, residual_dropout, expert_dropout, router_noise, step, layer,
  initial_weights, batch, sampling, evaluation, corpus, check
};

struct Key {
  std::uint64_t value = 0;

  constexpr Key with(Purpose purpose, std::uint64_t number = 0) const {
    return {mix64(mix64(value + 0x9e3779b97f4a7c15u * static_cast<std::uint64_t>(purpose)) + number)};
  }
  constexpr std::uint64_t bits(std::uint64_t counter) const {
    return mix64(value + (counter + 1) * 0x9e3779b97f4a7c15u);
  }
  // Uniform in [0, 1).
  double uniform(std::uint64_t counter) const { return static_cast<double>(bits(counter) >> 11) * 0x1.0p-53; }
  // Standard normal (Box-Muller); uses counter only.
  double normal(std::uint64_t counter) const {
    const std::uint64_t b = bits(counter);
    const double u = (static_cast<double>(b >> 32) + 0.5) * 0x1.0p-32;
    const double angle = 6.283185307179586 * static_cast<double>(b & 0xffffffffu) * 0x1.0p-32;
    return std::sqrt(-2 * std::log(u)) * std::cos(angle);
  }
};

// A key and a running counter: randomness one draws in sequence (initial weights, batches, sampling).
// Its two numbers are its whole state.
struct Rng {
  Key key;
  std::uint64_t counter = 0;

  Rng() = default;
  explicit Rng(std::uint64_t seed) : key{mix64(seed)} {}
  explicit Rng(Key k) : key(k) {}

  std::uint64_t bits() { return key.bits(counter++); }
  double uniform() { return key.uniform(counter++); }
  double normal() { return key.normal(counter++); }
  // Uniform in [0, n).
  std::uint64_t below(std::uint64_t n) {
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(bits()) * n) >> 64);
  }
};

}  // namespace moegpt::inline MOEGPT_BUILD
