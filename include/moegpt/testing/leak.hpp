#pragma once
// find_leak: checks that a decoder is causal. In one sequence of a random batch, the ids from some position
// on are replaced. Then each layer's output, and the head's input, must keep their bits at every earlier
// position of that sequence. Other sequences may change: with a capacity over the batch, tokens of all
// sequences compete.
#include <moegpt/model/batch.hpp>
#include <moegpt/model/gpt.hpp>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct LeakOptions {
  Shape shape{3, 8};         // of the batches; at most the model's context
  ModelOptions options{};    // such as a capacity factor
  Objective objective{};     // such as dropout
  std::optional<Key> key{};  // of noise and dropout; none: evaluation
  Exec exec{};
  std::uint64_t seed = 1;  // of weights and ids
  int draws = 4;           // models and batches to check
  double spread = 0.4;     // standard deviation of weights: large enough that routing differs between tokens
};

struct LeakReport {
  bool leaks = false;
  int layer = -1;  // the first whose output changed; the number of layers: the last norm
  Index sequence = -1;
  Index position = -1;     // the first that changed
  Index exchanged = -1;    // the first whose id was replaced
  std::uint64_t seed = 0;  // of this model and batch

  // "no leak", or what was found in one sentence.
  std::string text() const {
    if (!leaks) return "no leak";
    std::string found = "leak: layer " + std::to_string(layer) + " gives another output at position ";
    return found + std::to_string(position) + " of sequence " + std::to_string(sequence) +
           " when ids from position " + std::to_string(exchanged) + " on are replaced (seed " +
           std::to_string(seed) + ")";
  }
};

namespace testing {

// Output [tokens, D] of a layer in the last forward; layer == layers: of the last norm.
template <class Model>
const typename Model::Scalar* output_of(const typename Model::Workspace& work, int layer) {
  const auto& tape = work.tape;
  if (layer == Model::config.layers) return tape.normed[0];
  return tape.trunk.stream[static_cast<std::size_t>(layer) + 1][0];
}

// Compares all positions before `exchanged`, layer by layer, with their earlier outputs.
template <class Model>
void compare_past(const typename Model::Workspace& work, const std::vector<typename Model::Scalar>& before,
                  Shape shape, Index sequence, Index exchanged, LeakReport& report) {
  constexpr Index D = Model::D;
  for (int layer = 0; layer <= Model::config.layers; ++layer)
    for (Index t = 0; t < exchanged; ++t) {
      const Index n = sequence * shape.length + t;
      if (std::memcmp(before.data() + (layer * shape.tokens() + n) * D, output_of<Model>(work, layer) + n * D,
                      sizeof(typename Model::Scalar) * D) == 0)
        continue;
      report = {true, layer, sequence, t, exchanged, report.seed};
      return;
    }
}

}  // namespace testing

// Any GPT<config, router, T>.
template <class Model>
LeakReport find_leak(const LeakOptions& options = {}) {
  using T = typename Model::Scalar;
  constexpr Index D = Model::D;
  constexpr int V = Model::config.vocab, layers = Model::config.layers;
  static_assert(V > 1, "find_leak exchanges ids: the model needs more than one");
  const Shape shape = options.shape;
  check(shape.batch >= 1 && shape.length >= 2, "find_leak: shape is ", shape.batch, " x ", shape.length,
        ": at least 1 sequence of 2 tokens is needed, or there is no later id to exchange");
  check(options.draws >= 1, "find_leak: draws is ", options.draws, ", expected at least 1");
  check(options.spread > 0 && std::isfinite(options.spread), "find_leak: spread is ", options.spread,
        ", expected a finite number above 0: without it all tokens are alike");
  const auto model = std::make_unique<Model>();
  const auto work = std::make_unique<typename Model::Workspace>(shape, options.exec, options.objective);
  model->options = options.options;
  LeakReport report;
  for (int draw = 0; draw < options.draws && !report.leaks; ++draw) {
    report.seed = options.seed + static_cast<std::uint64_t>(draw);
    Rng rng(report.seed);
    for_each_weight(
        [&](auto& w) {
          for (auto& x : w) x = static_cast<T>(options.spread * rng.normal());
        },
        *model);
    Batch batch{shape, {}, {}};
    for (Index n = 0; n < shape.tokens(); ++n) batch.inputs.push_back(static_cast<int>(rng.below(V)));
    batch.targets = batch.inputs;
    model->forward(batch, *work, options.key);
    std::vector<T> before;
    for (int layer = 0; layer <= layers; ++layer) {
      const T* output = testing::output_of<Model>(*work, layer);
      before.insert(before.end(), output, output + shape.tokens() * D);
    }
    for (Index b = 0; b < shape.batch && !report.leaks; ++b)
      for (Index exchanged = 1; exchanged < shape.length && !report.leaks; ++exchanged) {
        Batch other = batch;
        for (Index n = b * shape.length + exchanged; n < (b + 1) * shape.length; ++n) {
          int& id = other.inputs[static_cast<std::size_t>(n)];
          id = (id + 1 + static_cast<int>(rng.below(V - 1))) % V;
        }
        model->forward(other, *work, options.key);
        testing::compare_past<Model>(*work, before, shape, b, exchanged, report);
      }
  }
  return report;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
