#pragma once
// For tests of whole models: random batches, bits of trees, and what an error says.
#include <moegpt/model/gpt.hpp>
#include <moegpt/model/init.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>

#include "../support/catch.hpp"
#include "../support/refusal.hpp"

#include <memory>

using namespace moegpt;

inline std::vector<int> random_ids(Index count, int vocab, std::uint64_t seed) {
  Rng rng(seed);
  std::vector<int> ids(static_cast<std::size_t>(count));
  for (int& id : ids) id = static_cast<int>(rng.below(static_cast<std::uint64_t>(vocab)));
  return ids;
}

inline Batch random_batch(Shape shape, int vocab, std::uint64_t seed) {
  return {shape, random_ids(shape.tokens(), vocab, 2 * seed),
          random_ids(shape.tokens(), vocab, 2 * seed + 1)};
}

// Weights large enough that attention, routing and experts all matter, unlike those of a fresh model.
template <class Model>
std::unique_ptr<Model> random_model(std::uint64_t seed, double spread = 0.4) {
  auto model = std::make_unique<Model>();
  Rng rng(seed);
  for_each_weight(
      [&](const auto& w) {
        Buffer<typename Model::Scalar> row(w.cols);  // whatever the storage is
        for (Index i = 0; i < w.rows; ++i) {
          for (auto& x : row) x = static_cast<typename Model::Scalar>(spread * rng.normal());
          write_row(w.view(), i, row.data());
        }
      },
      *model);
  return model;
}

template <class T>
bool same_bits(const T* a, const T* b, Index count) {
  return std::memcmp(a, b, sizeof(T) * static_cast<std::size_t>(count)) == 0;
}

// The path of the first weight that differs in a bit; empty if none does.
template <class Tree>
std::string first_difference(const Tree& a, const Tree& b) {
  std::string found;
  for_each_named_weight(
      [&](const std::string& path, Kind, const auto& x, const auto& y) {
        if (found.empty() && (x.size() != y.size() || !same_bits(x.data(), y.data(), x.size()))) found = path;
      },
      a, b);
  return found;
}
