#pragma once
// Training of a model on random tokens, its model FLOPs and its memory.
#include <moegpt/moegpt.hpp>
#include <moegpt/run/peak.hpp>

#include <algorithm>
#include <array>
#include <map>
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
template <class S>
inline constexpr double bytes_of_stored = sizeof(S);
template <class S>
inline constexpr double bytes_of_stored<Panels<S>> = sizeof(S);
template <>
inline constexpr double bytes_of_stored<Panels<INT8>> = 1 + 4.0 / INT8::block;
template <class Model>
inline constexpr double bytes_of_weight = 0;
template <Config C, class Recipe, class N>
inline constexpr double bytes_of_weight<GPT<C, Recipe, N>> = bytes_of_stored<StorageOf<N>>;

// Products of steps: how often a matrix met so many rows.
struct Products {
  struct Entry {
    double numbers, bytes, rows;  // of the matrix
    auto operator<=>(const Entry&) const = default;
  };
  std::map<Entry, double> times;
  double steps = 0;

  // Of a step: the sum over products of max(bytes / bandwidth, FLOPs / peak).
  double seconds(double bandwidth, double peak) const {
    double sum = 0;
    for (const auto& [entry, count] : times)
      sum += count * std::max(entry.bytes / bandwidth, 2 * entry.numbers * entry.rows / peak);
    return sum / steps;
  }
};

// Sequences that grow by one token at a time: the likeliest of each.
template <class Model>
struct Growing {
  Model model;
  typename Model::Workspace work;
  typename Model::Cache cache;
  std::vector<int> ids;
  Products products;

  Growing(Index sequences, int threads)
      : work({sequences, Model::config.context / 4}, Exec{.threads = threads}, {},
             sequences == 1 ? Use::inference : Use::inspection),
        cache(sequences) {
    if constexpr (!std::same_as<walk::Storage<Model>, float>)
      init(model, Key{1});
    else
      random_weights(model);
    Rng rng(4);
    std::vector<int> prompt(static_cast<std::size_t>(work.shape.tokens()));
    for (int& id : prompt) id = static_cast<int>(rng.below(Model::V));
    read(prompt);
  }
  void next() {
    if (cache.remaining() == 0)
      for (Index b = 0; b < cache.batch(); ++b) cache.truncate(b, Model::config.context / 4);
    read(std::vector<int>(ids));
    if (cache.batch() > 1) count();
  }

 private:
  // Adds the products of the last forward.
  void count() {
    static constexpr Config config = Model::config;
    ++products.steps;
    const auto add = [&](double numbers, double bytes, double rows) {
      ++products.times[{numbers, numbers * bytes, rows}];
    };
    std::vector<double> expert;  // matrices of an expert in each layer
    for_each_named_weight(
        [&](const std::string& path, Kind kind, const auto& w) {
          const bool look_up =
              path.starts_with("position_embedding") || (path.starts_with("token_embedding") && !config.tied);
          const double numbers = static_cast<double>(w.size());
          if (w.shape.size() < 2 || look_up) return;
          if (kind != Kind::sparse) add(numbers, bytes_of_weight<Model>, static_cast<double>(cache.batch()));
          if (path.find(".experts.0.") != path.npos) expert.push_back(numbers);
        },
        model);
    const double kv_heads = config.attention().key_value_heads(), width = config.attention().width();
    for (Index b = 0; b < cache.batch(); ++b)  // keys and values, which the queries of a group share
      for (int i = 0; i < 2 * config.layers; ++i)
        add(static_cast<double>(cache.length(b)) * kv_heads * width, sizeof(float), config.heads / kv_heads);
    if constexpr (Model::has_experts) {
      double layers = 0;
      for_each_mixture(model, work, [&](int, const auto&, const auto&) { ++layers; });
      expert.resize(expert.size() / static_cast<std::size_t>(layers));
      for_each_mixture(model, work, [&](int, const auto&, const auto& tape) {
        for (int e = 0; e < tape.plan.experts; ++e)
          for (const double numbers : expert)
            if (tape.plan.load(e) > 0)
              add(numbers, bytes_of_weight<Model>, static_cast<double>(tape.plan.load(e)));
      });
    }
  }
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
          .next = [growing] { growing->next(); },
          .bound = [growing](double bandwidth,
                             double peak) { return growing->products.seconds(bandwidth, peak); }};
}

// A prompt of 1,000 tokens is read in pieces of 256.
template <class Model>
Workload prompt(std::string name, int threads) {
  struct Prompt {
    Model model;
    SequenceBatch<Model> sequences;
    std::vector<int> ids = std::vector<int>(1000);
    explicit Prompt(int threads) : sequences(model, {.piece = 256, .exec = {threads}}) {
      init(model, Key{1});
      Rng rng(2);
      for (int& id : ids) id = static_cast<int>(rng.below(Model::V));
    }
  };
  auto reader = std::make_shared<Prompt>(threads);
  const Shape shape{1, 1000};
  constexpr Config C = Model::config;
  const double head = static_cast<double>(C.vocab) * C.dim;  // of the last token only
  return {.name = std::move(name),
          .tokens = 1000,
          .flops = model_flops(reader->model, shape) / 3 - 2 * 999 * head,
          .step = [reader] {
            reader->sequences.clear(0);
            reader->sequences.read(0, reader->ids);
          }};
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
