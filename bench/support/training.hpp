#pragma once
// Training of a model on random tokens, its model FLOPs and its memory.
#include <moegpt/moegpt.hpp>
#include <moegpt/run/peak.hpp>

#include <algorithm>
#include <array>
#include <memory>

#include "workloads.hpp"

namespace bench {
using namespace moegpt;

// Weights of the usual size, drawn fast: a model of half a billion weights should not take a minute to begin.
template <class Model>
void random_weights(Model& model) {
  Rng rng(1);
  walk::each(
      [&](const auto&, const walk::Attributes& attributes, auto& w) {
        const bool one = attributes.start == Start::one;
        std::uint64_t state = rng.bits();
        for (auto& value : w) {
          state = state * 6364136223846793005u + 1442695040888963407u;
          const float uniform = static_cast<float>(state >> 40) * 0x1p-24f - 0.5f;
          value = one ? 1 : w.shape.size() > 1 ? 0.07f * uniform : 0;  // deviation 0.02
        }
      },
      model);
}

// Bytes of a training run: 16 for each weight (itself, gradient, two moments), and the activations, in
// numbers for a token. K slots for each token in a mixture, 1 in a dense feed-forward network; w = 2 if
// experts are gated, else 1:
//   tape, each layer   6 D                stream, normed1, attended, middle, normed2, mixed
//                      2 Dq + 2 Dkv + H   attention's queries, mixed values, keys, values, log-sum-exp
//                      K w Dff            experts before activation
//                      2 E + 8 K + 8      scores and their spread, plan, norms
//   tape, once         2 D + V            the last stream, its norm, logits
//   scratch, once      6 D                gradients of the stream and inside a block
//                      2 Dq + 2 Dkv       gradients inside attention
//                      3 K D              slots: output, its gradient, the input's; D in a dense network
//                      K (w + 1) Dff      experts after activation, gradients before it
//                      E + 512            gradients of routing and of a block of logits
// What each thread has for itself, and the indices of a few lists, are too small to be counted.
template <class Model>
double memory_formula(const Model& model, Shape shape) {
  constexpr Config C = Model::config;
  constexpr AttentionShape A = C.attention();
  constexpr double D = C.dim, V = C.vocab, Dff = C.expert_width(), H = C.heads, w = C.gated ? 2 : 1;
  constexpr double Dq = C.heads * A.width(), Dkv = A.key_value_heads() * A.width();
  double E = 0, K = 1, slot_count = 1;
  if constexpr (Model::has_experts) {
    E = Model::RouterRecipe::experts;
    K = Model::RouterRecipe::active;
    slot_count = 3 * K;
  }
  const double layer = 6 * D + 2 * Dq + 2 * Dkv + H + K * w * Dff + 2 * E + 8 * K + 8;
  const double once = 8 * D + V + 2 * Dq + 2 * Dkv + slot_count * D + K * (w + 1) * Dff + E + 512;
  return 16.0 * static_cast<double>(count_weights(model)) +
         sizeof(typename Model::Scalar) * static_cast<double>(shape.tokens()) * (C.layers * layer + once);
}

template <class Model>
struct Training {
  Model model, grad;
  Adam<Model> adam{{.learning_rate = 1e-4}};
  typename Model::Workspace work;
  std::array<Batch, 4> batches;
  int done = 0;

  Training(Shape shape, int threads, Objective objective, const ModelOptions& options)
      : work(shape, Exec{.threads = threads}, objective) {
    model.options = options;
    random_weights(model);
    Rng rng(2);
    for (Batch& batch : batches) {
      batch.shape = shape;
      for (Index n = 0; n < shape.tokens(); ++n) {
        batch.inputs.push_back(static_cast<int>(rng.below(Model::V)));
        batch.targets.push_back(static_cast<int>(rng.below(Model::V)));
      }
    }
  }
  void step() {
    const Batch& batch = batches[static_cast<std::size_t>(done) % batches.size()];
    model.forward(batch, work, Key{3}.with(Purpose::step, static_cast<std::uint64_t>(done)));
    set_zero(grad, work.exec);
    model.backward(batch, work, grad);
    adam.step(model, grad, work.exec);
    ++done;
  }
};

// Bytes of a weight in a model's storage; INT8 has one float scale for 32 weights.
template <class Model>
inline constexpr double bytes_of_weight = 0;
template <Config C, class Recipe, class N>
inline constexpr double bytes_of_weight<GPT<C, Recipe, N>> =
    std::is_same_v<StorageOf<N>, INT8> ? 1 + 4.0 / INT8::block : sizeof(StorageOf<N>);

// Sequences that grow by one token at a time: the likeliest of each.
template <class Model>
struct Growing {
  Model model;
  typename Model::Workspace work;
  typename Model::Cache cache;
  std::vector<int> ids;

  Growing(Index sequences, int threads)
      : work({sequences, Model::config.context / 4}, Exec{.threads = threads}, {}, Use::inference),
        cache(sequences) {
    if constexpr (bytes_of_weight<Model> < sizeof(float))
      init(model, Key{1});
    else
      random_weights(model);
    begin();
  }
  void begin() {
    cache.clear();
    Rng rng(4);
    std::vector<int> prompt(static_cast<std::size_t>(work.shape.tokens()));
    for (int& id : prompt) id = static_cast<int>(rng.below(Model::V));
    read(prompt);
  }
  void next() {
    if (cache.remaining() == 0) return begin();
    read(std::vector<int>(ids));
  }

 private:
  void read(const std::vector<int>& from) {
    const auto logits = model.logits(from, work, cache);
    const Index length = logits.count / cache.batch();
    ids.resize(static_cast<std::size_t>(cache.batch()));
    for (std::size_t b = 0; b < ids.size(); ++b) {
      const float* z = logits[(static_cast<Index>(b) + 1) * length - 1];
      ids[b] = static_cast<int>(std::max_element(z, z + Model::V) - z);
    }
  }
};

template <class Model>
Writing writing(int sequences, int threads) {
  auto growing = std::make_shared<Growing<Model>>(sequences, threads);
  return {.bytes = bytes_of_weight<Model> * weights_in_products(growing->model),
          .next = [growing] { growing->next(); }};
}

template <class Model>
Workload workload(std::string name, Shape shape, int threads, Objective objective = {},
                  const ModelOptions& options = {}) {
  auto training = std::make_shared<Training<Model>>(shape, threads, objective, options);
  return {.name = std::move(name),
          .tokens = static_cast<double>(shape.tokens()),
          .flops = model_flops(training->model, shape),
          .weights = static_cast<double>(count_weights(training->model)),
          .memory = memory_formula(training->model, shape),
          .step = [training] { training->step(); }};
}

}  // namespace bench
