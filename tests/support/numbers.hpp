#pragma once
// Numbers for tests: random ones from a seed, and exact comparison.
#include "catch.hpp"

#include <moegpt/core/fields.hpp>
#include <moegpt/core/random.hpp>

#include <cstring>

template <class T>
moegpt::Buffer<T> random_numbers(moegpt::Index count, std::uint64_t seed, double spread = 1) {
  moegpt::Buffer<T> numbers(count);
  moegpt::Rng rng(seed);
  for (T& x : numbers) x = static_cast<T>(spread * rng.normal());
  return numbers;
}
template <int D, class T>
moegpt::Tokens<D, T> random_tokens(moegpt::Index count, std::uint64_t seed, double spread = 1) {
  moegpt::Tokens<D, T> tokens(count);
  tokens.memory() = random_numbers<T>(count * D, seed, spread);
  return tokens;
}
template <class Tree>
void draw_weights(Tree& tree, std::uint64_t seed, double spread = 0.5) {
  moegpt::Rng rng(seed);
  moegpt::for_each_weight(
      [&](auto& w) {
        using T = typename std::remove_reference_t<decltype(w)>::Scalar;
        for (auto& x : w) x = static_cast<T>(spread * rng.normal());
      },
      tree);
}

template <class T>
bool same_bits(const T* a, const T* b, moegpt::Index count) {
  return std::memcmp(a, b, sizeof(T) * static_cast<std::size_t>(count)) == 0;
}
template <class T>
bool same_bits(const moegpt::Buffer<T>& a, const moegpt::Buffer<T>& b) {
  return a.size() == b.size() && (a.size() == 0 || same_bits(a.data(), b.data(), a.size()));
}
template <int D, class T>
bool same_bits(const moegpt::Tokens<D, T>& a, const moegpt::Tokens<D, T>& b) {
  return a.count() == b.count() && (a.count() == 0 || same_bits(a[0], b[0], a.count() * D));
}
template <class Tree>
bool same_weights(const Tree& a, const Tree& b) {
  bool same = true;
  moegpt::for_each_weight(
      [&](const auto& x, const auto& y) {
        same = same && x.size() == y.size() && (x.empty() || same_bits(x.data(), y.data(), x.size()));
      },
      a, b);
  return same;
}

// max |a - b|
template <class T>
double distance(const T* a, const T* b, moegpt::Index count) {
  double worst = 0;
  for (moegpt::Index i = 0; i < count; ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(d <= worst)) worst = d;  // a NaN is the worst
  }
  return worst;
}
template <int D, class T>
double distance(const moegpt::Tokens<D, T>& a, const moegpt::Tokens<D, T>& b) {
  REQUIRE(a.count() == b.count());
  return distance(a[0], b[0], a.count() * D);
}

// The message of the std::invalid_argument that f throws; empty if it throws none.
template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}
