#pragma once
// GPT: a Transformer with a language-model head; with a router as Recipe, its FFNs are MoE layers.
// Mask::causal gives a decoder. Mask::full gives an encoder, trained on Batch::targets (for instance masked
// tokens); its logits are in work.tape.head.logits.
#include <moegpt/model/batch.hpp>
#include <moegpt/model/head.hpp>
#include <moegpt/model/mixture_check.hpp>
#include <moegpt/model/transformer.hpp>

#include <limits>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Losses of one forward. Router losses are stated before their coefficients: balance is combined over layers
// by its rule, the others are summed, each times its layer's weight if the objective has layer_weights.
// Uniform loads and scores give balance = balanced_value.
struct Loss : RouterLosses<double> {
  double cross_entropy = 0;  // mean over `targets`, in nats per token
  Index targets = 0;         // number of targets that are not ignored
  double divergence = 0;     // mean KL(teacher || model) at the temperature of soft targets, in nats
  double hard_weight = 1, soft_weight = 0;  // with soft targets 1 - a and a T^2 (model/distillation.hpp)
  // hard_weight * cross_entropy + soft_weight * divergence + sum of coefficient * router loss
  double total(const Objective& o) const {
    return hard_weight * cross_entropy + soft_weight * divergence + weighted(o, *this);
  }
};

template <Config C, class Recipe = Dense, class N = float, TrunkPart Part = TrunkPart{}>
  requires(make_a_model<Recipe, N>() && make_a_mixture<C, Recipe, N>())
struct GPT {
  using T = ScalarOf<N>;
  using Scalar = T;
  using RouterRecipe = Recipe;
  using Trunk = Transformer<C, Recipe, N, Part>;
  static constexpr Config config = C;
  static constexpr int D = C.dim, V = C.vocab;
  static constexpr bool has_experts = Trunk::has_experts;
  using HeadType = Head<D, V, N, C.tied, C.head_bias, C.adapter_rank>;
  using Cache = typename Trunk::Cache;
  using Workspace = moegpt::Workspace<GPT>;
  using MemoryType = Memory<Trunk::M, T>;

  Trunk trunk;
  HeadType head;  // tied: it has no weight and uses trunk.token_embedding
  ModelOptions options;

  static constexpr auto fields() { return Fields{Field{"", &GPT::trunk}, Field{"head", &GPT::head}}; }

  struct Tape {
    typename Trunk::Tape trunk;
    Tokens<D, T> normed;  // [tokens, D] output of the trunk
    typename HeadType::Tape head;
    void resize(const Pass& pass, Use use) {
      trunk.resize(pass, use);
      resize_all(pass, normed, head);
    }
  };
  struct Scratch {
    typename Trunk::Scratch trunk;
    Tokens<D, T> d_normed;
    typename HeadType::Scratch head;
    void resize(const Pass& pass, Use use) {
      trunk.resize(pass, use);
      if (use == Use::training) resize_all(pass, d_normed, head);
    }
  };

  // Number of parameters used per token: conditional (expert) parameters count K / E, all others 1.
  double active_weights() const {
    double active = 0;
    for_each_weight_of_kind(
        [&](Kind kind, const auto& w) {
          double share = 1;
          if constexpr (has_experts)
            if (kind == Kind::sparse) share = static_cast<double>(Recipe::active) / Recipe::experts;
          active += share * static_cast<double>(w.size());
        },
        *this);
    return active;
  }

  // Mean cross-entropy of the targets, and the router losses.
  // key: RNG key of noise and dropout; none: evaluation.
  // Padding (batch.lengths) is not routed, not attended to and excluded from all losses; its ids must be
  // valid. batch.inputs, targets and documents must live until backward. Throws std::invalid_argument for
  // invalid ids or shapes, std::runtime_error for a loss that is not finite, on all ranks if it is on one.
  Loss forward(const Batch& batch, Workspace& work, std::optional<Key> key = {}) const {
    return forward(batch, work, key, work.objective);
  }
  // The same with another objective than the workspace's, such as Objective{} in evaluation. soft: logits of
  // a teacher, of which backward computes the gradient, too (model/distillation.hpp). memory: what a decoder
  // reads, which must live until backward.
  Loss forward(const Batch& batch, Workspace& work, std::optional<Key> key, const Objective& objective,
               const SoftTargets<V, T>& soft = {}, const MemoryType* memory = nullptr) const {
    check_ids(batch.targets, "target", std::numeric_limits<int>::min(), V);
    check(std::ssize(batch.targets) == batch.shape.tokens(), "the batch has ", batch.targets.size(),
          " targets for ", batch.shape.tokens(), " tokens: one each, below zero to ignore it");
    check_lengths(batch.lengths, batch.shape);
    check(batch.documents.empty() || std::ssize(batch.documents) == batch.shape.tokens(), "the batch has ",
          batch.documents.size(), " documents for ", batch.shape.tokens(),
          " tokens: one each, or none if a token may attend to its whole sequence");
    Pass pass = trunk.prepare(batch.inputs,
                              {.shape = batch.shape,
                               .options = options,
                               .key = key,
                               .lengths = pointer_to(batch.lengths),
                               .documents = pointer_to(batch.documents)},
                              work, objective);
    Tape& tape = work.tape;
    tape.normed.resize(pass);
    Loss loss;
    work.exec.region([&](const Exec& exec) {
      pass.exec = exec;
      loss = {
          trunk.forward(batch.inputs, tape.normed, tape.trunk, work.scratch.trunk, pass, nullptr, memory)};
      loss.cross_entropy =
          head.loss(tape.normed, trunk.token_embedding.weight, batch.targets.data(), tape.head, pass, soft);
      loss.targets = tape.head.counted, loss.divergence = tape.head.mean_divergence;
      loss.hard_weight = soft.hard_weight(), loss.soft_weight = soft.soft_weight();
    });
    double total = loss.total(objective);
    if (work.ranks) work.ranks->sum(&total, 1);  // all ranks throw, so that none waits for another
    if (!std::isfinite(total)) not_finite("loss", total, first_not_finite(*this));
    work.last.complete = true, work.last.targets = batch.targets.data();
    return loss;
  }

  // grad += d(weight * loss.total(objective)) of the last forward of `work`. To accumulate micro-batches with
  // different numbers of targets, pass weight = loss.targets / their sum. Throws std::invalid_argument
  // without such a forward, for another batch than its own, and for an inference workspace.
  // A decoder adds the gradient of its memory to *d_memory.
  void backward(const Batch& batch, Workspace& work, GPT& grad, double weight = 1,
                const MemoryType* memory = nullptr, const Sum<Trunk::M, T>* d_memory = nullptr) const {
    check_trains<N>();
    check(work.use == Use::training, "backward needs a workspace made for training");
    check_forward(work, "backward");
    const Tape& tape = work.tape;
    Scratch& scratch = work.scratch;
    RoutingContext routing = work.last.routing;
    Pass pass = work.last.with_routing(routing);
    check(pass.shape == batch.shape && routing.ids == batch.inputs.data(),
          "backward was called with another batch than the last forward of this workspace");
    check_targets(batch.targets, work.last.targets, pass.tokens());
    check(weight >= 0 && std::isfinite(weight), "backward: the weight of this batch is ", weight,
          ", expected a finite number, 0 or more");
    routing.objective = scaled(routing.objective, weight);
    scratch.d_normed.resize(pass);
    work.exec.region([&](const Exec& exec) {
      pass.exec = exec;
      head.backward(tape.normed, trunk.token_embedding.weight, tape.head, scratch.d_normed, grad.head,
                    grad.trunk.token_embedding.weight, scratch.head, pass, weight);
      trunk.backward(batch.inputs, tape.trunk, scratch.d_normed, grad.trunk, scratch.trunk, pass, memory,
                     d_memory);
    });
  }

  // Next-token logits [batch * length, V] after each id; appends keys and values to the cache.
  // ids: [batch * length], batch = cache.batch(); sequence b starts at position cache.length(b).
  // lengths: [batch] ids of each sequence before its padding; none: length.
  // key: RNG key of noise and dropout; none: evaluation.
  // The view is valid until the workspace's next use. Throws std::invalid_argument for invalid ids, shapes or
  // a full cache, std::runtime_error for a logit that is not finite.
  In<V, T> logits(std::span<const int> ids, Workspace& work, Cache& cache,
                  std::optional<Key> key = {}) const {
    return logits(ids, {}, work, cache, key);
  }
  In<V, T> logits(std::span<const int> ids, std::span<const Index> lengths, Workspace& work, Cache& cache,
                  std::optional<Key> key = {}) const {
    return logits_of<false>(ids, lengths, work, cache, key);
  }
  // The same for the last id of each sequence only, [batch, V]. The row of a sequence without ids is
  // unspecified.
  In<V, T> last_logits(std::span<const int> ids, std::span<const Index> lengths, Workspace& work,
                       Cache& cache, std::optional<Key> key = {}) const {
    return logits_of<true>(ids, lengths, work, cache, key);
  }

 private:
  template <bool last>
  In<V, T> logits_of(std::span<const int> ids, std::span<const Index> lengths, Workspace& work, Cache& cache,
                     std::optional<Key> key) const {
    static_assert(C.mask == Mask::causal,
                  "GPT: with Config::mask = Mask::full a token depends on later ones, so this "
                  "model cannot generate: call forward and read work.tape.head.logits, or use Mask::causal");
    const Shape shape{cache.batch(), std::ssize(ids) / cache.batch()};
    check_lengths(lengths, shape);
    cache.check_remaining(shape.length, lengths);
    Pass pass = trunk.prepare(ids,
                              {.shape = shape,
                               .options = options,
                               .key = key,
                               .first_positions = cache.lengths().data(),
                               .sequence_stride = C.context,
                               .lengths = pointer_to(lengths),
                               .partial = true},
                              work, work.objective);
    Tape& tape = work.tape;
    const Index rows = last ? shape.batch : shape.tokens();
    tape.normed.resize(pass);
    tape.head.logits.resize(rows);
    work.exec.region([&](const Exec& exec) {
      pass.exec = exec;
      trunk.forward(ids, tape.normed, tape.trunk, work.scratch.trunk, pass, &cache);
      if constexpr (last)  // the last rows move to the front
        for (Index b = 0; b < shape.batch; ++b) {
          const Index length = lengths.empty() ? shape.length : lengths[static_cast<std::size_t>(b)];
          const Index n = b * shape.length + std::max<Index>(length - 1, 0);
          if (n != b) std::copy_n(tape.normed[n], C.dim, tape.normed[b]);
        }
      head.forward(tape.normed.rows({0, rows}), trunk.token_embedding.weight, tape.head, pass);
    });
    for (const T logit : tape.head.logits.memory())
      if (!std::isfinite(logit))
        not_finite("logit of a token", static_cast<double>(logit), first_not_finite(*this));
    work.last.complete = true;
    cache.advance(shape.length, lengths);
    return tape.head.logits;
  }

  template <class List>
  static auto* pointer_to(const List& list) {
    return list.empty() ? nullptr : list.data();
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
