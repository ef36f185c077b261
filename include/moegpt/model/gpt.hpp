#pragma once
// GPT: embed, blocks, norm, head. A decoder whose feed-forward networks are mixtures of experts; with Mask::full
// an encoder: what to predict is then up to the batch's targets, and the logits are in the tape after forward.
#include <moegpt/layers/embedding.hpp>
#include <moegpt/model/batch.hpp>
#include <moegpt/model/block.hpp>
#include <moegpt/model/checks.hpp>
#include <moegpt/model/config.hpp>
#include <moegpt/model/head.hpp>
#include <moegpt/model/interleaved.hpp>
#include <moegpt/model/kv_cache.hpp>
#include <moegpt/model/mixtures.hpp>
#include <moegpt/model/workspace.hpp>
#include <moegpt/moe/allowed_experts.hpp>
#include <moegpt/moe/feed_forward.hpp>
#include <moegpt/moe/layer_mean.hpp>
#include <moegpt/moe/moe_layer.hpp>

#include <limits>

namespace moegpt::inline MOEGPT_BUILD {

// In place of a router: every block has a dense feed-forward network.
struct Dense {};

// What a batch cost, in nats per token, and what the objective looks at.
// Losses of routers are before their coefficients: balance is combined over layers by its rule, the others are
// summed. For uniform loads and scores balance is balanced_value.
struct Loss : RouterLosses<double> {
  double cross_entropy = 0;
  Index targets = 0;   // that count: the cross-entropy is their mean
  double total(const Objective& o) const { return cross_entropy + weighted(o, *this); }
};

// What stands in a model for its feed-forward networks: nothing but them, a router, or a mixture of another kind.
template <class Recipe>
concept ModelRecipe = std::same_as<Recipe, Dense> || Router<Recipe> || requires {
  typename Recipe::template Mixture<Recipe, Expert<4, 4>>;
  { Recipe::experts } -> std::convertible_to<int>;
  { Recipe::active } -> std::convertible_to<int>;
  { Recipe::causal } -> std::convertible_to<bool>;
};

// A constraint that says in words what it wants, before a compiler meets what would follow.
template <class Recipe, class N>
consteval bool make_a_model() {
  if constexpr (requires { typename Recipe::template For<4, float>; } && !ModelRecipe<Recipe>)
    static_assert(Router<Recipe>, "GPT<config, Recipe, T>: Recipe lacks something that a Router has (moe/router.hpp)");
  else
    static_assert(ModelRecipe<Recipe>,
                  "GPT<config, Recipe, T>: Recipe must be Dense, a router such as TopKRouter<8, 2>, or a mixture such "
                  "as SharedExperts<...>. Experts come from the config, and which are allowed from work.allowed");
  static_assert(Number<N>, "GPT<config, Recipe, N>: N must be float, double, or for inference Stored<float, BF16> or "
                "Stored<float, INT8>");
  return ModelRecipe<Recipe> && Number<N>;
}

template <Config C, class Recipe = Dense, class N = float>
  requires(make_a_model<Recipe, N>())
struct GPT {
  static_assert(extents_make_sense<C>());
  static_assert(C.head_dim > 0 || C.dim % C.heads == 0,
                "Config: dim must be a multiple of heads, or head_dim be given");
  static_assert(C.moe_every >= 1 && C.dense_first >= 0, "Config: moe_every must be at least 1, dense_first at least 0");
  static_assert(!C.mixture_at.given || (C.dense_first == 0 && C.moe_every == 1),
                "Config: mixture_at says alone which layers are mixtures: leave out dense_first and moe_every");
  static_assert(!C.mixture_at.given || C.layers <= LayerSet::most,
                "Config: mixture_at chooses among at most LayerSet::most layers");

  using T = ScalarOf<N>;
  using Scalar = T;
  using RouterRecipe = Recipe;
  static constexpr Config config = C;
  static constexpr int D = C.dim, V = C.vocab;
  static constexpr bool has_experts = !std::is_same_v<Recipe, Dense>;
  static constexpr bool learned_positions = C.positions == Positions::learned;

  template <int Dff>
  using ExpertOf = std::conditional_t<C.gated, GatedExpert<D, Dff, C.activation, N, C.expert_bias>,
                                      Expert<D, Dff, C.activation, N, C.expert_bias>>;
  using ExpertType = ExpertOf<C.expert_width()>;
  using NormOfKind = std::conditional_t<C.norm == Norm::layer, LayerNorm<D, T>, RMSNorm<D, T>>;
  using BlockNorm = std::conditional_t<C.residual == Residual::no_norm, NoNorm<D, T>, NormOfKind>;
  using LastNorm = std::conditional_t<C.residual == Residual::pre_norm, NormOfKind, NoNorm<D, T>>;
  template <class Mixture>
  using BlockOf = std::conditional_t<C.residual == Residual::post_norm,
                                     PostNormBlock<C.attention(), BlockNorm, Mixture, N>,
                                     Block<C.attention(), BlockNorm, Mixture, N>>;
  template <class R>
  struct BlockFor { using type = BlockOf<MixtureOf<R, ExpertType>>; };
  template <std::same_as<Dense> R>
  struct BlockFor<R> { using type = BlockOf<FeedForward<ExpertOf<C.dense_width()>>>; };
  using DenseBlock = typename BlockFor<Dense>::type;
  using MoEBlock = typename BlockFor<Recipe>::type;
  static constexpr bool has_balance = HasLosses<decltype(MoEBlock::Tape::mixture)>;

  struct Pattern {
    static constexpr int layers = C.layers;
    static constexpr bool second(int layer) { return has_experts && C.is_moe(layer); }
  };
  using Blocks = Interleaved<DenseBlock, MoEBlock, Pattern>;
  static_assert(!has_experts || Blocks::bs > 0,
                "GPT: no layer is a mixture: let Config say which are, or take Dense in place of the router");
  using HeadType = Head<D, V, N, C.tied, C.head_bias>;
  using Cache = KVCache<C, T>;
  using Workspace = moegpt::Workspace<GPT>;

  Embedding<V, D, N> token_embedding;
  Embedding<learned_positions ? C.context : 0, D, T> position_embedding;
  Blocks blocks;
  LastNorm norm;
  HeadType head;
  ModelOptions options;

  static constexpr auto fields() {
    return Fields{Field{"token_embedding", &GPT::token_embedding},
                      Field{"position_embedding", &GPT::position_embedding}, Field{"blocks", &GPT::blocks},
                      Field{"norm", &GPT::norm}, Field{"head", &GPT::head}};
  }

  struct Tape {
    RoutingContext routing;                          // of the last forward
    Pass pass;                                       // likewise; see with_routing
    bool complete = false;                           // whether that, or logits, has returned; see check_forward
    const int* targets = nullptr;                    // of its batch; null after logits
    Buffer<Index> lengths, first_positions;          // [batch] those of the pass, if it has any
    HeapArray<Tokens<D, T>, C.layers + 1> stream;    // what enters each block, and what leaves the last
    Interleaved<typename DenseBlock::Tape, typename MoEBlock::Tape, Pattern> blocks;
    typename LastNorm::Tape norm;
    Tokens<D, T> normed;
    typename HeadType::Tape head;
    LayerMean<T> layer_mean;

    void resize(const Pass& to, Use use) {
      for (int i = 0; i <= C.layers; ++i)
        if (use == Use::training || i < 2) stream_of(i, use).resize(to.tokens());
      for (int i = 0; i < C.layers; ++i)
        if (use == Use::training || shared_tape(i) == i)
          blocks.at_layer(i, [&](auto& block) { block.resize(to); });
      for (auto* b : {&lengths, &first_positions}) b->resize(to.tokens());   // there are no more sequences
      norm.resize(to);
      normed.resize(to.tokens());
      head.resize(to);
      if constexpr (has_balance) layer_mean.resize(Recipe::experts, to);
    }
    // The pass of the last forward, with the routing context of it or another one.
    Pass with_routing(const RoutingContext& context) const {
      Pass whole = pass;
      whole.routing = &context;
      return whole;
    }
    // In inference two streams take turns, and all blocks of a kind share the tape of the first.
    Tokens<D, T>& stream_of(int i, Use use) { return stream[static_cast<std::size_t>(use == Use::training ? i : i % 2)]; }
    static int shared_tape(int layer) {
      for (int i = 0; i < layer; ++i)
        if (Pattern::second(i) == Pattern::second(layer)) return i;
      return layer;
    }
  };
  struct Scratch {
    typename DenseBlock::Scratch dense;     // of whichever block is at work
    typename MoEBlock::Scratch mixture;
    std::array<Tokens<D, T>, 2> d_stream;
    Tokens<D, T> d_normed;
    typename HeadType::Scratch head;

    void resize(const Pass& to, Use use) {
      if constexpr (Blocks::as > 0) dense.resize(to);
      if constexpr (Blocks::bs > 0) mixture.resize(to);
      if (use == Use::inference) return;
      for (auto& d : d_stream) d.resize(to.tokens());
      d_normed.resize(to.tokens());
      head.resize(to);
    }
    template <class BlockType>
    auto& of(const BlockType&) {
      if constexpr (std::is_same_v<BlockType, DenseBlock>)
        return dense;
      else
        return mixture;
    }
  };

  // Weights that one token meets: all but the experts it is not sent to.
  double active_weights() const {
    double active = 0;
    for_each_weight_of_kind([&](Kind kind, const auto& w) {
      double share = 1;
      if constexpr (has_experts)
        if (kind == Kind::sparse) share = static_cast<double>(Recipe::active) / Recipe::experts;
      active += share * static_cast<double>(w.size());
    }, *this);
    return active;
  }

  // Mean cross-entropy of what follows, and the losses of the routers. With a key: noise and dropout. Padding
  // (batch.lengths) is not routed, not attended to, and counts in no loss; its ids must be valid ones all the same.
  // Throws std::invalid_argument for ids or shapes that do not fit, std::runtime_error for a loss that is not finite.
  Loss forward(const Batch& batch, Workspace& work, std::optional<Key> key = {}) const {
    return forward(batch, work, key, work.objective);
  }
  // The same with another objective than the workspace's: evaluation wants none of it.
  Loss forward(const Batch& batch, Workspace& work, std::optional<Key> key, const Objective& objective) const {
    check_ids(batch.inputs, "input", 0, V);
    check_ids(batch.targets, "target", std::numeric_limits<int>::min(), V);
    check(std::ssize(batch.targets) == batch.shape.tokens(), "the batch has ", batch.targets.size(), " targets for ",
          batch.shape.tokens(), " tokens: one each, below zero to ignore it");
    check_lengths(batch.lengths, batch.shape);
    Pass pass = prepare(batch.inputs, batch.lengths, batch.shape, work, {}, key, objective);
    Loss loss;
    work.exec.region([&](const Exec& exec) {
      pass.exec = exec;
      loss = run_blocks(pass, work, nullptr);
      loss.cross_entropy = head.loss(work.tape.normed, token_embedding.weight, batch.targets.data(), work.tape.head,
                                     pass);
      loss.targets = work.tape.head.counted;
    });
    if (!std::isfinite(loss.total(objective))) not_finite("loss", loss.total(objective), first_not_finite(*this));
    work.tape.complete = true, work.tape.targets = batch.targets.data();
    return loss;
  }

  // Adds the gradient of weight * loss.total(objective) of the last forward of `work` to `grad`. To accumulate
  // micro-batches with different numbers of targets, weigh each by loss.targets over their sum.
  void backward(const Batch& batch, Workspace& work, GPT& grad, double weight = 1) const {
    check_trains<N>();
    check(work.use == Use::training, "backward needs a workspace made for training");
    check_forward(work, "backward");
    const Tape& tape = work.tape;
    Scratch& s = work.scratch;
    RoutingContext routing = tape.routing;
    Pass pass = tape.with_routing(routing);
    check(pass.shape == batch.shape && routing.ids == batch.inputs.data(),
          "backward was called with another batch than the last forward of this workspace");
    check_targets(batch.targets, tape.targets, pass.tokens());
    check(weight >= 0 && std::isfinite(weight), "backward: the weight of this batch is ", weight,
          ", expected a finite number, 0 or more");
    routing.objective = scaled(routing.objective, weight);
    Tokens<D, T>*dy = &s.d_stream[0], *dx = &s.d_stream[1];
    for (auto* t : {dy, dx, &s.d_normed}) t->resize(pass.tokens());

    work.exec.region([&](const Exec& exec) {
      pass.exec = exec;
      head.backward(tape.normed, token_embedding.weight, tape.head, s.d_normed, grad.head, grad.token_embedding.weight,
                    s.head, pass, weight);
      norm.backward(tape.stream[C.layers], tape.norm, s.d_normed, *dy, grad.norm, pass);
      for (int i = C.layers - 1; i >= 0; --i) {
        blocks.at_layer(i, [&](const auto& block, const auto& block_tape, auto& block_grad) {
          block.backward(tape.stream[static_cast<std::size_t>(i)], block_tape, *dy, *dx, block_grad, s.of(block),
                         pass.at_layer(i));
        }, tape.blocks, grad.blocks);
        std::swap(dy, dx);
      }
      if constexpr (learned_positions) position_embedding.add_positions_backward(*dy, grad.position_embedding, pass);
      token_embedding.backward(batch.inputs.data(), *dy, grad.token_embedding, pass);
    });
  }

  // Logits [V] of what follows each of the ids, which continue what the cache holds (its batch x length ids).
  // Each sequence continues at its own length. lengths: [batch] ids of each sequence that are not padding; none: all.
  // The view lives in the workspace until its next use. Throws std::runtime_error for a logit that is not finite.
  In<V, T> logits(std::span<const int> ids, Workspace& work, Cache& cache, std::optional<Key> key = {}) const {
    return logits(ids, {}, work, cache, key);
  }
  In<V, T> logits(std::span<const int> ids, std::span<const Index> lengths, Workspace& work, Cache& cache,
                  std::optional<Key> key = {}) const {
    static_assert(C.mask == Mask::causal, "GPT: with Config::mask = Mask::full a token depends on later ones, so this "
                  "model cannot generate: call forward and read work.tape.head.logits, or use Mask::causal");
    const Shape shape{cache.batch(), std::ssize(ids) / cache.batch()};
    check_ids(ids, "input", 0, V);
    check_lengths(lengths, shape);
    cache.check_room(shape.length, lengths);
    Pass pass = prepare(ids, lengths, shape, work, cache.lengths(), key, work.objective);
    pass.sequence_stride = C.context;
    pass.partial = true;
    work.tape.head.logits.resize(shape.tokens());
    work.exec.region([&](const Exec& exec) {
      pass.exec = exec;
      run_blocks(pass, work, &cache);
      head.forward(work.tape.normed, token_embedding.weight, work.tape.head.logits, pass);
    });
    for (const T logit : work.tape.head.logits.memory())
      if (!std::isfinite(logit)) not_finite("logit of a token", static_cast<double>(logit), first_not_finite(*this));
    work.tape.complete = true;
    cache.advance(shape.length, lengths);
    return work.tape.head.logits;
  }

 private:
  [[gnu::noinline]] Pass prepare(std::span<const int> ids, std::span<const Index> lengths, Shape shape,
                                 Workspace& work, std::span<const Index> first_positions,
                                 std::optional<Key> key, const Objective& objective) const {
    check_options(options), check_objective(objective);
    check_shape(ids, shape, work.shape, C.context);
    if constexpr (has_experts) check_allowed<Recipe>(work.allowed);
    Tape& tape = work.tape;
    tape.complete = false, tape.targets = nullptr;
    tape.lengths.resize(std::ssize(lengths));
    std::copy(lengths.begin(), lengths.end(), tape.lengths.begin());
    tape.first_positions.resize(std::ssize(first_positions));
    std::copy(first_positions.begin(), first_positions.end(), tape.first_positions.begin());
    tape.routing = {.objective = objective, .ids = ids.data(), .allowed = work.allowed, .task = work.task};
    tape.pass = {.shape = shape, .exec = work.exec, .options = options, .dropout = objective.dropout, .key = key,
                 .first_positions = first_positions.empty() ? nullptr : tape.first_positions.data(),
                 .lengths = lengths.empty() ? nullptr : tape.lengths.data(),
                 .partial = shape != work.shape};
    return tape.with_routing(tape.routing);
  }

  // From ids to tape.normed. Returns the routers' losses.
  Loss run_blocks(const Pass& pass, Workspace& work, Cache* cache) const {
    Tape& tape = work.tape;
    Loss loss;
    if constexpr (has_balance) tape.layer_mean.start(Recipe::experts, pass);
    Tokens<D, T>* x = &tape.stream_of(0, work.use);
    x->resize(pass.tokens());
    token_embedding.forward(tape.routing.ids, *x, pass);
    if constexpr (learned_positions) position_embedding.add_positions(*x, pass);
    for (int i = 0; i < C.layers; ++i) {
      Tokens<D, T>* y = &tape.stream_of(i + 1, work.use);
      y->resize(pass.tokens());
      auto run = [&](const auto& block, auto& block_tape) {
        const auto held = cache ? cache->at_layer(i) : typename Cache::View{};
        block.forward(*x, *y, block_tape, work.scratch.of(block), pass.at_layer(i), cache ? &held : nullptr);
        if constexpr (HasLosses<decltype(block_tape.mixture)>) add_losses(block_tape.mixture, loss);
        if constexpr (has_balance && std::is_same_v<std::remove_cvref_t<decltype(block_tape)>, typename MoEBlock::Tape>)
          tape.layer_mean.add(block_tape.mixture);
      };
      blocks.at_layer(i, [&](const auto& block) {
        using Wanted = typename std::remove_cvref_t<decltype(block)>::Tape;
        tape.blocks.at_layer(work.use == Use::training ? i : Tape::shared_tape(i), [&](auto& block_tape) {
          if constexpr (std::is_same_v<Wanted, std::remove_cvref_t<decltype(block_tape)>>) run(block, block_tape);
        });
      });
      x = y;
    }
    if constexpr (has_balance) {
      const BalanceRule& rule = tape.routing.objective.balance_rule;
      loss.balance = tape.layer_mean.loss(rule);
      if (work.use == Use::training)
        for_each_mixture(*this, work, [&](int, const auto&, auto& mixture_tape) {
          tape.layer_mean.divide(rule, mixture_tape);
        });
    }
    tape.normed.resize(pass.tokens());
    norm.forward(*x, tape.normed, tape.norm, pass);
    return loss;
  }
};

}  // namespace moegpt::inline MOEGPT_BUILD
