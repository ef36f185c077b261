#pragma once
// Records of a run: what it is, and what happened at a step. A record of step n describes the run after n
// steps. Losses are means in nats per token.
#include <moegpt/io/json.hpp>
#include <moegpt/model/mixtures.hpp>
#include <moegpt/moe/metrics.hpp>
#include <moegpt/text/token_view.hpp>
#include <moegpt/text/tokenizer.hpp>

#include <string>
#include <utility>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Load of the experts of one MoE layer, summed over forwards.
struct LayerLoad {
  int layer = 0;              // index in the model
  Index wanted = 0;           // pairs requested, before capacity
  std::vector<Index> load{};  // [E] pairs that each expert processed

  // Largest load over the mean load. Balanced: 1; all pairs at one expert: E.
  double max_over_mean() const { return 1 + max_violation(load); }
  // Entropy of the load over ln E, in [0, 1]. Balanced: 1; all pairs at one expert: 0.
  double entropy() const {
    const auto E = static_cast<double>(load.size());
    return load.size() < 2 ? 1 : moegpt::entropy(load.data(), std::ssize(load)) / std::log(E);
  }
  int dead() const { return dead_experts(load); }
  // Fraction of the requested pairs without a slot.
  double dropped() const {
    double served = 0;
    for (const Index pairs : load) served += static_cast<double>(pairs);
    return wanted > 0 ? 1 - served / static_cast<double>(wanted) : 0;
  }
};

// Adds the loads of the workspace's last forward, or creates them if `loads` is empty: one element per MoE
// layer, none for a dense model. Allocates only then. std::invalid_argument for an inference workspace,
// before a forward, and for loads of another model.
template <class Model>
void add_loads(const Model& model, const Workspace<Model>& work, std::vector<LayerLoad>& loads) {
  check_mixtures(work, "add_loads");
  const bool first = loads.empty();
  std::size_t i = 0;
  for_each_mixture(model, work, [&](int number, const auto&, const auto& tape) {
    const auto& plan = tape.plan;
    const auto E = static_cast<std::size_t>(plan.experts);
    if (first) loads.push_back({number, 0, std::vector<Index>(E)});
    check(i < loads.size() && loads[i].layer == number && loads[i].load.size() == E,
          "add_loads: these loads are of another model: layer ", number, " has ", E, " experts");
    for (int e = 0; e < plan.experts; ++e) {
      loads[i].load[static_cast<std::size_t>(e)] += plan.load(e);
      loads[i].wanted += plan.wanted[e];
    }
    ++i;
  });
}
// Sets all counts to zero. Keeps the memory.
inline void clear(std::vector<LayerLoad>& loads) {
  for (LayerLoad& layer : loads) {
    layer.wanted = 0;
    std::fill(layer.load.begin(), layer.load.end(), Index{0});
  }
}

// The worst layer in each respect.
struct ExpertHealth {
  double max_over_mean = 0, entropy = 1, dropped = 0;  // dropped: fraction
  int dead = 0, experts = 0;                           // experts: E of the layer with the most dead ones
};
inline ExpertHealth worst_of(std::span<const LayerLoad> layers) {
  ExpertHealth worst;
  for (const LayerLoad& layer : layers) {
    worst.max_over_mean = std::max(worst.max_over_mean, layer.max_over_mean());
    worst.entropy = std::min(worst.entropy, layer.entropy());
    worst.dropped = std::max(worst.dropped, layer.dropped());
    if (const int dead = layer.dead(); worst.experts == 0 || dead > worst.dead)
      worst.dead = dead, worst.experts = static_cast<int>(layer.load.size());
  }
  return worst;
}

// What a run is: the first record, and another one whenever it is resumed. Read, options and baselines are in
// the order of their names.
struct RunRecord {
  Index step = 0;
  std::string model{};                                         // its type, as to_text writes it
  Index parameters = 0;                                        // number of weights
  double active = 0;                                           // of them per token
  Index steps = 0;                                             // of the whole run
  std::string unit{};                                          // what a token is, such as "character"
  std::vector<std::pair<std::string, std::string>> options{};  // of training, corpus and build
  std::vector<std::pair<std::string, double>> baselines{};     // losses to compare with, by name
  double peak = 0;                                             // FLOP/s, measured; 0: unknown
  double time = 0;                                             // seconds since 1970
};

// Work of one rank in a step of several processes (dist/distribution.hpp).
struct RankLoad {
  Index pairs = 0;     // that its experts processed, summed over layers
  Index bytes = 0;     // that it sent to other ranks
  double waiting = 0;  // seconds in calls that exchange data, the transfer included
};

// A training step. With micro-batches, losses are means and loads sums over them.
struct StepRecord {
  Index step = 0;                               // steps done, this one included
  Index tokens = 0;                             // trained on since the start of the run
  double loss = 0;                              // cross-entropy of the step's batch, before its update
  RouterLosses<double> router{};                // without coefficients
  double learning_rate = 0, gradient_norm = 0;  // the norm before clipping
  std::vector<LayerLoad> layers{};
  // Of this execution; a resumed run has others.
  double seconds = 0;             // per step and
  double tokens_per_second = 0;   // see Speed
  double utilisation = 0;         // model FLOP/s over the measured peak; 0: unknown
  std::vector<RankLoad> ranks{};  // none: a single process
  double time = 0;                // seconds since 1970
};

// Losses estimated on random batches of both parts of the corpus.
struct EvaluationRecord {
  Index step = 0;
  double train = 0, val = 0;
  bool best = false;  // the smallest val loss so far
  double time = 0;
};

// The loss of the whole validation part, after the last step.
struct FinalRecord {
  Index step = 0;
  double val = 0;
  Index batches = 0;  // random ones, where routers are noisy in evaluation; 0: the whole part, once
  double time = 0;
};

struct SampleRecord {
  Index step = 0;
  std::string text{};
  double time = 0;
};

// Anything else: a checkpoint, a skipped step, a resumption, a signal.
struct EventRecord {
  Index step = 0;
  std::string what{}, text{};  // a short name, and a sentence
  double time = 0;
};

// Loss of the uniform distribution over V tokens, ln V.
inline double uniform_loss(int vocab) { return std::log(static_cast<double>(vocab)); }
// Loss on `val` of the distribution of single tokens in `train`, each counted once more than it occurs.
// std::invalid_argument for no tokens, or ids outside [0, vocab).
inline double unigram_loss(TokenView train, TokenView val, int vocab) {
  check(vocab > 0 && !val.empty(), "unigram_loss: there are ", val.size(), " tokens of ", vocab,
        " different ones, expected at least 1 of each");
  std::vector<double> count(static_cast<std::size_t>(vocab), 1);
  const auto at = [&](int id) -> double& {
    check(id >= 0 && id < vocab, "unigram_loss: token id ", id, " is outside [0, ", vocab, ")");
    return count[static_cast<std::size_t>(id)];
  };
  for_each_token_piece(train, [&](Index, std::span<const int> ids) {
    for (const int id : ids) ++at(id);
  });
  double sum = 0;
  for_each_token_piece(val, [&](Index, std::span<const int> ids) {
    for (const int id : ids) sum -= std::log(at(id));
  });
  return std::log(static_cast<double>(train.size()) + vocab) + sum / static_cast<double>(val.size());
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
