#pragma once
// Transformer: the trunk of a model, from token ids to normalised features [tokens, D]. GPT adds an LM head.
//   x_0 = e embedding(ids) + positions,   x_l+1 = block_l(x_l),   y = norm(x_L)
// with e = ModelOptions::embedding_scale. As the decoder of an EncoderDecoder its blocks also read a memory
// (TrunkPart).
#include <moegpt/layers/embedding.hpp>
#include <moegpt/model/block.hpp>
#include <moegpt/model/checks.hpp>
#include <moegpt/model/config.hpp>
#include <moegpt/model/decoder_cache.hpp>
#include <moegpt/model/interleaved.hpp>
#include <moegpt/model/mixtures.hpp>
#include <moegpt/model/workspace.hpp>
#include <moegpt/routing/allowed_experts.hpp>
#include <moegpt/moe/feed_forward.hpp>
#include <moegpt/moe/layer_mean.hpp>
#include <moegpt/moe/moe_layer.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Feed-forward branches of a model: Dense FFNs, MoE layers of a router, or another type of MoE layer.
template <class Recipe>
concept ModelRecipe = std::same_as<Recipe, Dense> || Router<Recipe> || requires {
  typename Recipe::template Mixture<Recipe, Expert<4, 4>>;
  { Recipe::experts } -> std::convertible_to<int>;
  { Recipe::active } -> std::convertible_to<int>;
  { Recipe::causal } -> std::convertible_to<bool>;
};

// Constraint of GPT and Transformer whose static assertions precede the compiler's own diagnostics.
template <class Recipe, class N>
consteval bool make_a_model() {
  if constexpr (requires { typename Recipe::template For<4, float>; } && !ModelRecipe<Recipe>)
    static_assert(Router<Recipe>,
                  "GPT<config, Recipe, N>: Recipe lacks something that a Router has (routing/router.hpp)");
  else
    static_assert(
        ModelRecipe<Recipe>,
        "GPT<config, Recipe, N>: Recipe must be Dense, a router such as TopKRouter<8, 2>, or a mixture "
        "such as SharedExperts<...>. Experts come from the config or WithExperts<...>, and which are "
        "allowed from work.allowed");
  static_assert(NumberPolicy<N>,
                "GPT<config, Recipe, N>: N must be float, double, or for inference Stored<float>, "
                "Stored<float, BF16> or Stored<float, INT8>");
  return ModelRecipe<Recipe> && NumberPolicy<N>;
}

namespace detail {
template <class Recipe, bool PostNorm, AttentionShape S, int M, class NormType, class Mixture, class N>
struct TrunkBlock {
  static_assert(
      !requires { typename Recipe::template Block<S, NormType, Mixture>; },
      "Transformer: a recipe with a Block of its own cannot be in a trunk that reads a memory");
  using type = DecoderBlockOf<PostNorm, S, M, NormType, Mixture, N>;
};
template <class Recipe, bool PostNorm, AttentionShape S, class NormType, class Mixture, class N>
struct TrunkBlock<Recipe, PostNorm, S, 0, NormType, Mixture, N> {
  using type = BlockOfRecipe<Recipe, PostNorm, S, NormType, Mixture, N>;
};
template <Config C, TrunkPart Part, class T>
struct CacheFor {
  using type = DecoderCache<C, Part, T>;
};
template <Config C, TrunkPart Part, class T>
  requires(Part.memory_dim == 0)
struct CacheFor<C, Part, T> {
  using type = KVCache<C, T>;
};
}  // namespace detail

// Default of what a model does between the blocks of its trunk.
struct NothingBetween {
  void operator()(int, auto) const {}
};

template <Config C, class Recipe = Dense, class N = float, TrunkPart Part = TrunkPart{}>
  requires(make_a_model<Recipe, N>())
struct Transformer {
  static_assert(extents_make_sense<C>());
  static_assert(C.head_dim > 0 || C.dim % C.heads == 0,
                "Config: dim must be a multiple of heads, or head_dim be given");
  static_assert(C.moe_every >= 1 && C.dense_first >= 0,
                "Config: moe_every must be at least 1, dense_first at least 0");
  static_assert(!C.mixture_at.given || (C.dense_first == 0 && C.moe_every == 1),
                "Config: mixture_at says alone which layers are mixtures: leave out dense_first and "
                "moe_every");
  static_assert(!C.mixture_at.given || C.layers <= LayerSet::most,
                "Config: mixture_at chooses among at most LayerSet::most layers");

  using T = ScalarOf<N>;
  using Scalar = T;
  using RouterRecipe = Recipe;
  static constexpr Config config = C;
  static constexpr int D = C.dim;
  static constexpr bool has_experts = !std::is_same_v<Recipe, Dense>;
  static constexpr bool learned_positions = C.positions == Positions::learned;
  static constexpr bool reads_memory = Part.memory_dim > 0;
  static constexpr int M = reads_memory ? Part.memory_dim : 1;

  template <int Dff>
  using ExpertOf = std::conditional_t<C.gated, GatedExpert<D, Dff, C.activation, N, C.expert_bias>,
                                      Expert<D, Dff, C.activation, N, C.expert_bias>>;
  using ExpertType = ExpertOf<C.expert_width()>;
  using NormOfKind = std::conditional_t<C.norm == Norm::layer, LayerNorm<D, T>, RMSNorm<D, T>>;
  using BlockNorm = std::conditional_t<C.residual == Residual::no_norm, NoNorm<D, T>, NormOfKind>;
  static constexpr bool post_norm = C.residual == Residual::post_norm;
  using LastNorm = std::conditional_t<C.residual == Residual::pre_norm || (post_norm && Part.last_norm),
                                      NormOfKind, NoNorm<D, T>>;
  template <class Mixture>
  using BlockOf = typename detail::TrunkBlock<Recipe, post_norm, C.attention(), Part.memory_dim, BlockNorm,
                                              Mixture, N>::type;
  template <class R>
  struct BlockFor {
    using type = BlockOf<MixtureOf<R, ExpertType>>;
  };
  template <std::same_as<Dense> R>
  struct BlockFor<R> {
    using type = BlockOf<FeedForward<ExpertOf<C.dense_width()>>>;
  };
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
  using Cache = typename detail::CacheFor<C, Part, T>::type;
  using Workspace = moegpt::Workspace<Transformer>;

  Embedding<C.vocab, D, N> token_embedding;
  Embedding<learned_positions ? C.context : 0, D, T> position_embedding;
  Blocks blocks;
  LastNorm norm;

  static constexpr auto fields() {
    return Fields{Field{"token_embedding", &Transformer::token_embedding},
                  Field{"position_embedding", &Transformer::position_embedding},
                  Field{"blocks", &Transformer::blocks}, Field{"norm", &Transformer::norm}};
  }

  struct Tape {
    Use use = Use::training;
    HeapArray<Tokens<D, T>, C.layers + 1> stream;  // inputs of the blocks, and the output of the last
    Interleaved<typename DenseBlock::Tape, typename MoEBlock::Tape, Pattern> blocks;
    // Use::inference: in place of `blocks`.
    OnePerKind<typename DenseBlock::Tape, typename MoEBlock::Tape, Pattern> shared;
    typename LastNorm::Tape norm;
    LayerMean<T> layer_mean;

    void resize(const Pass& pass, Use of) {
      use = of;
      resize_streams(pass);
      if (use == Use::inference)
        shared.resize(pass);
      else
        for (int i = 0; i < C.layers; ++i) blocks.at_layer(i, [&](auto& block) { block.resize(pass); });
      norm.resize(pass);
      if constexpr (has_balance) layer_mean.resize(Recipe::experts, pass);
    }
    void resize_streams(const Pass& pass) {
      for (int i = 0; i <= C.layers; ++i) stream_of(i).resize(pass);
    }
    // Use::inference alternates between two streams.
    Tokens<D, T>& stream_of(int i) {
      return stream[static_cast<std::size_t>(use == Use::inference ? i % 2 : i)];
    }
  };
  struct Scratch {
    OnePerKind<typename DenseBlock::Scratch, typename MoEBlock::Scratch, Pattern> blocks;
    std::array<Tokens<D, T>, 2> d_stream;

    void resize(const Pass& pass, Use use) {
      blocks.resize(pass);
      if (use == Use::training) resize_all(pass, d_stream[0], d_stream[1]);
    }
  };

  // Returns the call context of forward and backward, and stores it in work.last: `given` (shape, options,
  // key, positions, lengths) with the objective and the workspace's threads, allowed experts and task id.
  // ids: [tokens], must live until backward. std::invalid_argument for invalid ids, shapes or options.
  template <class Model>
  [[gnu::noinline]] Pass prepare(std::span<const int> ids, const Pass& given, moegpt::Workspace<Model>& work,
                                 const Objective& objective) const {
    check_options(given.options), check_objective(objective, C.layers);
    check_ids(ids, "input", 0, C.vocab);
    check_shape(ids, given.shape, work.shape, C.context);
    if constexpr (has_experts) check_allowed_experts(work.allowed, work.allowed_stride);
    LastForward& last = work.last;
    last.keep(given);
    last.pass.exec = work.exec, last.pass.dropout = objective.dropout;
    last.pass.partial = given.partial || given.shape != work.shape;
    if (work.ranks) last.pass.first_token += work.ranks->rank * given.shape.batch * given.stride();
    last.routing = {.objective = objective,
                    .ids = ids.data(),
                    .allowed = work.allowed,
                    .allowed_stride = work.allowed_stride,
                    .task = work.task,
                    .ranks = work.ranks};
    return last.with_routing(last.routing);
  }

  // ids [tokens] -> y [tokens, D]. Returns the router losses. With a cache, ids continue its sequences, and
  // their keys and values are stored, and it holds those of the memory; without one, a decoder reads
  // `memory`. after(i, x): called after block i with its output, which it may change.
  template <class After = NothingBetween>
  RouterLosses<double> forward(std::span<const int> ids, Out<D, T> y, Tape& tape, Scratch& scratch,
                               const Pass& pass, Cache* cache = nullptr, const Memory<M, T>* memory = nullptr,
                               const After& after = {}) const {
    if constexpr (reads_memory) check(cache || memory, "this trunk reads a memory: give it one");
    pass.check_fits(std::ssize(ids), y.count);
    RouterLosses<double> losses;
    tape.resize_streams(pass);
    if constexpr (has_balance) tape.layer_mean.start(Recipe::experts, pass);
    token_embedding.forward(ids.data(), tape.stream[0], pass);
    scale_embedding(tape.stream[0], pass);
    if constexpr (learned_positions) position_embedding.add_positions(tape.stream[0], pass);
    for (int i = 0; i < C.layers; ++i) {
      const auto held = cache ? cache->at_layer(i) : typename Cache::View{};
      const auto run = [&](const auto& block, auto& block_tape, auto& block_scratch) {
        Tokens<D, T>&x = tape.stream_of(i), &out = tape.stream_of(i + 1);
        if constexpr (!reads_memory)
          block.forward(x, out, block_tape, block_scratch, pass.at_layer(i), cache ? &held : nullptr);
        else if (cache)
          block.forward(x, held, out, block_tape, block_scratch, pass.at_layer(i));
        else
          block.forward(x, *memory, out, block_tape, block_scratch, pass.at_layer(i));
        if constexpr (HasLosses<decltype(block_tape.mixture)>) {
          const double weight = routing_of(pass).objective.layer_weight(i);
          add_losses(block_tape.mixture, losses, weight);
          tape.layer_mean.add(block_tape.mixture, weight);
        }
      };
      if (tape.use == Use::inference)
        blocks.at_layer(i, run, tape.shared, scratch.blocks);
      else
        blocks.at_layer(i, run, tape.blocks, scratch.blocks);
      after(i, tape.stream_of(i + 1).view());
    }
    if constexpr (has_balance) losses.balance = balance_over_layers(tape, pass);
    norm.forward(tape.stream_of(C.layers), y, tape.norm, pass);
    return losses;
  }

  // Adds the gradient of <y, dy> + the weighted router losses to `grad`, that of the memory to *d_memory.
  // dy [tokens, D]. before(i, d): called before the backward of block i with the gradient of what `after`
  // left, to make it that of the block.
  template <class Before = NothingBetween>
  void backward(std::span<const int> ids, const Tape& tape, In<D, T> dy, Transformer& grad, Scratch& scratch,
                const Pass& pass, const Memory<M, T>* memory = nullptr, const Sum<M, T>* d_memory = nullptr,
                const Before& before = {}) const {
    check_trains<N>();
    if constexpr (reads_memory) check(memory && d_memory, "this trunk reads a memory: give it one");
    check(tape.use == Use::training, "backward needs a workspace made for training");
    pass.check_fits(std::ssize(ids), dy.count);
    Tokens<D, T>*d = &scratch.d_stream[0], *dx = &scratch.d_stream[1];
    resize_all(pass, *d, *dx);
    norm.backward(tape.stream[C.layers], tape.norm, dy, *d, grad.norm, pass);
    for (int i = C.layers - 1; i >= 0; --i) {
      const Tokens<D, T>& x = tape.stream[static_cast<std::size_t>(i)];
      before(i, d->view());
      blocks.at_layer(
          i,
          [&](const auto& block, const auto& of_forward, auto& block_grad, auto& block_scratch) {
            if constexpr (reads_memory)
              block.backward(x, *memory, of_forward, *d, *dx, *d_memory, block_grad, block_scratch,
                             pass.at_layer(i));
            else
              block.backward(x, of_forward, *d, *dx, block_grad, block_scratch, pass.at_layer(i));
          },
          tape.blocks, grad.blocks, scratch.blocks);
      std::swap(d, dx);
    }
    if constexpr (learned_positions)
      position_embedding.add_positions_backward(*d, grad.position_embedding, pass);
    scale_embedding(*d, pass);
    token_embedding.backward(ids.data(), *d, grad.token_embedding, pass);
  }

 private:
  static void scale_embedding(Out<D, T> x, const Pass& pass) {
    const double factor = pass.options.embedding_scale;
    if (factor != 1) kernels::scale<T>(pass.exec, static_cast<T>(factor), x, x);
  }
  static void check_allowed_experts(const bool* allowed, Index stride) {
    check(stride == 0 || stride == Recipe::experts, "allowed_stride is ", stride, ", expected ",
          Recipe::experts, ", the number of experts, or 0 for the same experts in all layers");
    for (int i = 0; i < (allowed && stride > 0 ? C.layers : 1); ++i)
      if (stride == 0 || Pattern::second(i)) check_allowed<Recipe>(allowed ? allowed + i * stride : nullptr);
  }
  // Balance loss of the model. Scales each layer's part on its tape; inference tapes are shared and skipped.
  static double balance_over_layers(Tape& tape, const Pass& pass) {
    const BalanceRule& rule = routing_of(pass).objective.balance_rule;
    for (int i = 0; i < C.layers && tape.use != Use::inference; ++i)
      tape.blocks.at_layer(i, [&](auto& block) {
        if constexpr (HasLosses<decltype(block.mixture)>) tape.layer_mean.divide(rule, block.mixture);
      });
    return tape.layer_mean.loss(rule);
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
