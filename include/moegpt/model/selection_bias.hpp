#pragma once
// Balancing without a loss (Wang et al. 2024, DeepSeek-V3): a router whose selection is biased keeps a number
// per expert that counts in choosing and not in gates. Once per optimizer step it moves against the load,
//   b_e += rate sign(mean c - c_e),   c_e the pairs that chose e, before capacity
// less the mean of these steps, since only differences of biases matter.
#include <moegpt/core/fields.hpp>
#include <moegpt/core/heap_array.hpp>
#include <moegpt/model/mixtures.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Pairs of each mixture and expert, summed over the micro-batches of a step.
template <class Model>
struct ExpertCounts {
  HeapArray<Buffer<Index>, Model::config.layers> layer;  // [experts]; empty: no mixture

  // Of the last forward of `work`. Not after evaluation: what is evaluated must not move a bias.
  void add(const Model& model, const Workspace<Model>& work) {
    check_mixtures(work, "ExpertCounts");
    for_each_mixture(model, work, [&](int l, const auto&, const auto& tape) {
      Buffer<Index>& count = layer[static_cast<std::size_t>(l)];
      count.resize(tape.plan.experts);
      for (int e = 0; e < tape.plan.experts; ++e) count[e] += tape.plan.wanted[e];
    });
  }
  void clear() {
    for (auto& count : layer) count.fill(0);
  }
};

namespace detail {

// sign(0) = 0.
template <class Bias>
void move_selection_bias(Bias& bias, const Buffer<Index>& count, double rate, bool centred) {
  using T = typename Bias::Scalar;
  check(rate >= 0 && std::isfinite(rate), "balance_selection: the rate is ", rate,
        ": it must be a number, 0 or more");
  const Index E = count.size();
  Index total = 0;
  for (const Index c : count) total += c;
  const auto sign = [&](Index e) -> double { return (total > E * count[e]) - (total < E * count[e]); };
  double mean = 0;
  if (centred)
    for (Index e = 0; e < E; ++e) mean += sign(e) / static_cast<double>(E);
  for (Index e = 0; e < E; ++e) bias[e] += static_cast<T>(rate * (sign(e) - mean));
}

// Wherever in the mixture a router with a bias for each of its experts lies.
template <class Mixture>
void balance_selection_of(Mixture& mixture, const Buffer<Index>& count, double rate, bool centred) {
  walk::each(
      [&](const walk::Path& path, const walk::Attributes& attributes, auto& bias) {
        if (attributes.kind == Kind::buffer && path.name() == "selection_bias" && bias.size() == count.size())
          move_selection_bias(bias, count, rate, centred);
      },
      mixture);
}

}  // namespace detail

// Call it once per optimizer step, after the last micro-batch was added; then clear the counts. The usual
// rate is 0.001. Routers without a bias are left alone.
template <class Model>
void balance_selection(Model& model, const ExpertCounts<Model>& counts, double rate, bool centred = true) {
  for (int l = 0; l < Model::config.layers; ++l) {
    const Buffer<Index>& count = counts.layer[static_cast<std::size_t>(l)];
    if (count.size() == 0) continue;
    trunk_of(model).blocks.at_layer(
        l, [&](auto& block) { detail::balance_selection_of(block, count, rate, centred); });
  }
}
// The same with the counts of the last forward of `work` alone.
template <class Model>
void balance_selection(Model& model, const Workspace<Model>& work, double rate, bool centred = true) {
  check_mixtures(work, "balance_selection");
  for_each_mixture(model, work, [&](int, auto& mixture, const auto& tape) {
    detail::balance_selection_of(mixture, tape.plan.wanted, rate, centred);
  });
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
