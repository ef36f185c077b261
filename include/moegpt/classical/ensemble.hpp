#pragma once
// Ensembles: the mean of what several models say, each trained apart from the others; of any types, with
// outputs of one width.
#include <moegpt/core/check.hpp>
#include <moegpt/core/matrix.hpp>
#include <moegpt/kernels/softmax.hpp>

#include <algorithm>
#include <span>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace detail {
template <int K, class T>
void check_ensemble(std::span<const In<K, T>> outputs, Out<K, T> y) {
  check(!outputs.empty(), "an ensemble of no models");
  for (const In<K, T>& output : outputs)
    check(output.count == y.count, "an ensemble: a model has outputs of ", output.count, " tokens, expected ",
          y.count);
}
}  // namespace detail

// y = (1 / M) sum_m outputs_m, each [tokens, K].
template <int K, class T>
void mean_of_outputs(std::span<const In<K, T>> outputs, Out<K, T> y) {
  detail::check_ensemble<K, T>(outputs, y);
  for (Index n = 0; n < y.count; ++n)
    for (int k = 0; k < K; ++k) {
      T sum = 0;
      for (const In<K, T>& output : outputs) sum += output[n][k];
      y[n][k] = sum / static_cast<T>(outputs.size());
    }
}

// y = (1 / M) sum_m softmax(logits_m): the probabilities of a token are averaged, not its logits.
template <int K, class T>
void mean_of_probabilities(std::span<const In<K, T>> logits, Out<K, T> y) {
  detail::check_ensemble<K, T>(logits, y);
  std::vector<T> row(static_cast<std::size_t>(K));
  for (Index n = 0; n < y.count; ++n) {
    std::fill_n(y[n], K, T(0));
    for (const In<K, T>& of_model : logits) {
      std::copy_n(of_model[n], K, row.data());
      kernels::softmax(row.data(), K);
      for (int k = 0; k < K; ++k) y[n][k] += row[static_cast<std::size_t>(k)] / static_cast<T>(logits.size());
    }
  }
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
