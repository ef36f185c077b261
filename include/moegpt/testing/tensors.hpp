#pragma once
// Random weights of a tree, the tensors that gradcheck compares, the function that it differentiates, and
// comparisons of gradients.
#include <moegpt/moe/mixture_losses.hpp>
#include <moegpt/testing/differences.hpp>

#include <cmath>
#include <cstring>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace testing {

template <class Tree>
void draw_weights(Tree& tree, Rng& rng, double spread) {
  for_each_weight(
      [&](auto& w) {
        for (auto& x : w) x = spread * rng.normal();
      },
      tree);
}
inline void draw(Buffer<double>& x, Rng& rng, double spread) {
  for (double& v : x) v = spread * rng.normal();
}
template <class Tree>
void set_all(Tree& tree, double value) {
  for_each_weight(
      [&](auto& w) {
        for (auto& x : w) x = value;
      },
      tree);
}

// Appends the weights of `tree` with their gradients, except buffers and empty weights.
template <class Tree>
void add_tensors(std::vector<TensorUnderTest>& tensors, Tree& tree, const Tree& gradient) {
  for_each_named_weight(
      [&](const std::string& path, Kind kind, auto& w, const auto& g) {
        if (kind != Kind::buffer && !w.empty()) tensors.push_back({path, w.data(), g.data(), w.size()});
      },
      tree, gradient);
}

template <class Tree>
bool same_bits(const Tree& a, const Tree& b) {
  bool same = true;
  for_each_weight(
      [&](const auto& x, const auto& y) {
        same = same && std::memcmp(x.data(), y.data(), bytes_of<double>(x.size())) == 0;
      },
      a, b);
  return same;
}

// Whether `twice` is `start` + 2 `once` up to rounding, but for buffers (invariants 1 and 3).
template <class Tree>
bool adds(const Tree& once, const Tree& twice, double start) {
  bool good = true;
  for_each_weight_of_kind(
      [&](Kind kind, const auto& g, const auto& g2) {
        for (Index i = 0; i < g.size(); ++i)
          good = good &&
                 (kind == Kind::buffer || std::abs(g2[i] - start - 2 * g[i]) <= 1e-9 * (1 + std::abs(g[i])));
      },
      once, twice);
  return good;
}

// Of a block.
template <class Tape>
concept HoldsLosses = requires(const Tape& tape) { requires HasLosses<decltype(tape.mixture)>; };
// f = <y, dy> + the weighted losses of a mixture.
template <class Tape>
double value_of(const Buffer<double>& y, const Buffer<double>& dy, const Tape& tape, const Pass& pass) {
  double f = 0;
  for (Index i = 0; i < y.size(); ++i) f += y[i] * dy[i];
  const Objective o = objective_of(pass);
  if constexpr (HasLosses<Tape>) f += weighted(o, tape);
  if constexpr (HoldsLosses<Tape>) f += weighted(o, tape.mixture);
  return f;
}

}  // namespace testing
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
