#pragma once
// Gradient accumulation: one training step of several micro-batches, in the memory of one. With n_i targets,
// N_i tokens (without padding) and G_i sequences of micro-batch i, and n, N, G their sums, the loss is
//   sum_i (n_i / n) cross_entropy_i + (N_i / N) sum of coefficient * auxiliary loss_i,
// but with G_i / G for a balance loss of sequences (Group::sequence).
//
// Equal to the same sequences in one batch, up to rounding and without noise, dropout and a capacity: cross
// entropy, z, balance of sequences, and balance of the batch with BalanceLoads::whole_step. The losses
// importance, load, variance, count and own are those of each micro-batch.
//
// With work.ranks, micro-batch i is the i-th of all ranks together: n, N and G are sums over ranks, and
// loads, importance, load, variance and count are of all ranks. `own` is that of each rank. Every rank calls
// step with micro-batches of equal shapes.
#include <moegpt/model/gpt.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Load fractions f of a balance loss with Group::batch. Mean scores are always of the micro-batch.
enum class BalanceLoads {
  micro_batch,  // of the micro-batch
  so_far,       // of the micro-batch and those before it in the step
  whole_step,   // of the whole step, which needs an additional forward of each micro-batch
};

namespace detail {

// Tokens that are not padding, targets that are not ignored, and sequences that have tokens.
struct BatchCounts {
  Index tokens = 0, targets = 0, sequences = 0;

  // std::invalid_argument for other numbers of targets or lengths than the shape says. There is a target for
  // each token, or for each sequence in a Classifier.
  explicit BatchCounts(const Batch& b) {
    const bool of_sequences = std::ssize(b.targets) == b.shape.batch;
    check(of_sequences || std::ssize(b.targets) == b.shape.tokens(), "a micro-batch has ", b.targets.size(),
          " targets for ", b.shape.tokens(), " tokens: one each, below zero to ignore it");
    check_lengths(b.lengths, b.shape);
    for (Index row = 0; row < b.shape.batch; ++row) {
      const Index length = b.lengths.empty() ? b.shape.length : b.lengths[static_cast<std::size_t>(row)];
      const auto first = b.targets.begin() + (of_sequences ? row : row * b.shape.length);
      const Index count = of_sequences ? length > 0 : length;
      tokens += length;
      targets += std::count_if(first, first + count, [](int target) { return target >= 0; });
      sequences += length > 0;
    }
  }
  explicit BatchCounts(std::span<const Batch> batches) {
    for (const Batch& b : batches) {
      const BatchCounts one(b);
      tokens += one.tokens, targets += one.targets, sequences += one.sequences;
    }
  }
};

// The weights of a micro-batch's losses in those of its step.
struct StepWeights {
  double tokens, targets, sequences;
  bool by_sequence;  // the balance loss

  StepWeights(const BatchCounts& one, const BatchCounts& all, const Objective& o)
      : tokens(part(one.tokens, all.tokens)),
        targets(part(one.targets, all.targets)),
        sequences(part(one.sequences, all.sequences)),
        by_sequence(o.balance_rule.group == Group::sequence) {}

  // Of backward, which multiplies all losses by one weight; so the coefficients are divided by it. A batch
  // without a target has no cross entropy, so any weight will do.
  double of_backward() const { return targets > 0 ? targets : tokens > 0 ? tokens : 1; }
  bool none() const { return targets == 0 && tokens == 0; }
  Objective objective(const Objective& o) const {
    Objective own = scaled(o, tokens / of_backward());
    if (by_sequence) own.balance = o.balance * (sequences / of_backward());
    return own;
  }
  void add(const Loss& one, Loss& sum) const {
    const double balance = sum.balance + (by_sequence ? sequences : tokens) * one.balance;
    add_losses(one, sum, tokens);
    sum.balance = balance;
    sum.cross_entropy += targets * one.cross_entropy;
    sum.targets += one.targets;
  }

 private:
  static double part(Index one, Index all) {
    return all > 0 ? static_cast<double>(one) / static_cast<double>(all) : 0;
  }
};

}  // namespace detail

// Holds the loads of a step: [layers, experts] integers. No step allocates.
template <class Model>
class Accumulator {
 public:
  BalanceLoads loads;

  explicit Accumulator(BalanceLoads loads_ = BalanceLoads::so_far) : loads(loads_) {
    if constexpr (Model::has_experts) count_.resize(Model::config.layers * E);
  }

  // grad += gradient of the loss above, with the objective of `work`. Returns the loss. One micro-batch has
  // the bits of forward and backward. key: of the first micro-batch; number i > 0 has
  // key.with(Purpose::micro_batch, i). each(i, loss): called after the backward of micro-batch i, while
  // `work` holds its forward, for ExpertCounts and statistics.
  // Throws std::invalid_argument without micro-batches, and what forward and backward throw; grad then has
  // gradients of some micro-batches.
  template <class Each>
  Loss step(const Model& model, std::span<const Batch> batches, Workspace<Model>& work, Model& grad,
            std::optional<Key> key, Each&& each) {
    check(!batches.empty(), "Accumulator: a step needs at least one micro-batch; found none");
    detail::BatchCounts all(batches);
    if (work.ranks) sum_over_ranks(*work.ranks, batches, all);
    clear();
    if (whole_step(work.objective)) {
      for (std::size_t i = 0; i < batches.size(); ++i)
        forward(model, batches[i], work, key, i, work.objective);
      complete_ = true;
    }
    Loss sum;
    for (std::size_t i = 0; i < batches.size(); ++i) {
      const detail::StepWeights weights(detail::BatchCounts(batches[i]), all, work.objective);
      if (weights.none() && !work.ranks) continue;  // padding only, but other ranks may have tokens
      const Loss loss = forward(model, batches[i], work, key, i, weights.objective(work.objective));
      model.backward(batches[i], work, grad, weights.of_backward());
      weights.add(loss, sum);
      each(static_cast<Index>(i), loss);
    }
    if (work.ranks) sum_losses(*work.ranks, sum);
    return sum;
  }
  Loss step(const Model& model, std::span<const Batch> batches, Workspace<Model>& work, Model& grad,
            std::optional<Key> key = {}) {
    return step(model, batches, work, grad, key, [](Index, const Loss&) {});
  }

 private:
  static constexpr Index E = [] {
    if constexpr (Model::has_experts) return Index{Model::RouterRecipe::experts};
    return Index{0};
  }();

  bool whole_step(const Objective& o) const {
    return loads == BalanceLoads::whole_step && o.balance != 0 && o.balance_rule.group == Group::batch;
  }
  void clear() {
    count_.fill(0);
    tokens_ = 0;
    complete_ = false;
  }
  // The forward of micro-batch i, with the loads of the step, to which it adds its own unless they are
  // complete.
  Loss forward(const Model& model, const Batch& batch, Workspace<Model>& work, std::optional<Key> key,
               std::size_t i, Objective objective) {
    if (loads != BalanceLoads::micro_batch)
      objective.step_loads = {{count_.begin(), count_.end()}, tokens_, complete_};
    if (key && i > 0) key = key->with(Purpose::micro_batch, i);
    const Loss loss = model.forward(batch, work, key, objective);
    if (!complete_) {
      keep_loads(work);
      tokens_ += work.ranks ? of_ranks_[static_cast<Index>(i)] : detail::BatchCounts(batch).tokens;
    }
    return loss;
  }
  // The loads of the last forward, which include those before it.
  void keep_loads(const Workspace<Model>& work) {
    for (int layer = 0; layer < Model::config.layers; ++layer)
      trunk_of(work.tape).blocks.at_layer(layer, [&](const auto& block) {
        if constexpr (HasLosses<decltype(block.mixture)>)
          std::copy_n(block.mixture.load_count.begin(), E, count_.begin() + layer * E);
      });
  }

  // Sums counts over ranks. std::invalid_argument, on every rank, unless micro-batches have equal shapes.
  void sum_over_ranks(const Ranks& ranks, std::span<const Batch> batches, detail::BatchCounts& all) {
    const Index n = std::ssize(batches);
    check(ranks.agree(n), "Accumulator: ranks have different numbers of micro-batches, here ", n);
    of_ranks_.resize(n + 3);
    for (Index i = 0; i < n; ++i) {
      const Batch& batch = batches[static_cast<std::size_t>(i)];
      const bool same_batch = ranks.agree(batch.shape.batch), same_length = ranks.agree(batch.shape.length);
      check(same_batch && same_length, "Accumulator: ranks have different shapes of micro-batch ", i,
            ", here ", batch.shape.batch, " x ", batch.shape.length);
      of_ranks_[i] = detail::BatchCounts(batch).tokens;
    }
    of_ranks_[n] = all.tokens, of_ranks_[n + 1] = all.targets, of_ranks_[n + 2] = all.sequences;
    ranks.sum(of_ranks_.data(), n + 3);
    all.tokens = of_ranks_[n], all.targets = of_ranks_[n + 1], all.sequences = of_ranks_[n + 2];
  }
  static void sum_losses(const Ranks& ranks, Loss& loss) {
    constexpr Index n = std::size(loss_table<double>);
    double sums[n + 3];
    for (Index i = 0; i < n; ++i) sums[i] = loss.*loss_table<double>[i].value;
    sums[n] = loss.cross_entropy, sums[n + 1] = loss.divergence;
    sums[n + 2] = static_cast<double>(loss.targets);
    ranks.sum(sums, n + 3);
    for (Index i = 0; i < n; ++i) loss.*loss_table<double>[i].value = sums[i];
    loss.cross_entropy = sums[n], loss.divergence = sums[n + 1];
    loss.targets = static_cast<Index>(sums[n + 2]);
  }

  Buffer<Index> of_ranks_;  // tokens of micro-batches, summed over ranks
  Buffer<Index> count_;     // [layers, experts]
  Index tokens_ = 0;        // that they are of
  bool complete_ = false;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
