#pragma once
// Presets: published systems by name, each with its router, losses and block layout, at any extents:
//   using Preset = presets::mixtral<presets::Extents{
//       .vocab = 65, .context = 64, .dim = 64, .layers = 4, .heads = 8}>;
//   presets::ModelOf<Preset> model;
//   model.options = Preset::options();
//   init(model, Key{1}, Preset::init);
// objective() is an argument of the workspace. The default extents are the published ones. Each comment
// states how the preset differs from its system.
#include <moegpt/model/gpt.hpp>
#include <moegpt/model/init.hpp>
#include <moegpt/routing/all_experts.hpp>
#include <moegpt/routing/gshard_router.hpp>
#include <moegpt/routing/input_jitter.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>
#include <moegpt/moe/projected_mixture.hpp>
#include <moegpt/moe/shared_experts.hpp>
#include <moegpt/routing/sigmoid_router.hpp>

#include <cmath>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace presets {

// Dimensions of a preset; 0: that of the system, or its ratio to dim or heads.
struct Extents {
  int vocab, context, dim, layers, heads;
  int kv_heads = 0, head_dim = 0, hidden = 0, experts = 0, active = 0;

  // A copy whose zeros are replaced by those of `usual`; head_dim is not.
  constexpr Extents with(Extents usual) const {
    Extents all = *this;
    for (int Extents::* extent : {&Extents::kv_heads, &Extents::hidden, &Extents::experts, &Extents::active})
      if (all.*extent == 0) all.*extent = usual.*extent;
    return all;
  }
};

template <class Preset, class T = float>
using ModelOf = GPT<Preset::config, typename Preset::RouterRecipe, T>;

// Dimensions as given, other options as in Config.
constexpr Config config_of(const Extents& x) {
  return {.vocab = x.vocab,
          .context = x.context,
          .dim = x.dim,
          .layers = x.layers,
          .heads = x.heads,
          .kv_heads = x.kv_heads,
          .head_dim = x.head_dim,
          .hidden = x.hidden};
}
// The same with Llama's blocks: RMSNorm, rotary positions, SwiGLU, no biases.
constexpr Config llama_config_of(const Extents& x) {
  Config c = config_of(x);
  c.norm = Norm::rms, c.positions = Positions::rotary, c.activation = Activation::silu, c.gated = true;
  c.output_bias = c.expert_bias = false;
  return c;
}

// makeMoE (github.com/AviSoori1x/makeMoE): noisy top-2 of 8, attention scale 1 / sqrt(dim), biases except in
// query, key and value, capacity factor 1, no balance loss. Its routers are noisy in evaluation, too: pass
// forward a key there.
template <Extents X = Extents{.vocab = 65, .context = 32, .dim = 128, .layers = 8, .heads = 8}>
struct makemoe {
  static constexpr Extents extents = X.with({.experts = 8, .active = 2});
  static constexpr Config config = [] {
    Config c = config_of(extents);
    c.activation = Activation::relu, c.head_bias = true;
    return c;
  }();
  using RouterRecipe = NoisyTopKRouter<extents.experts, extents.active, NoisyTopK{.bias = true}>;
  static Objective objective() { return {.dropout = 0.1}; }
  static ModelOptions options() {
    return {.attention_scale = 1 / std::sqrt(double(X.dim)), .capacity_factor = 1, .min_capacity = 1};
  }
  static constexpr Init init = Init::makemoe;
};

// Options of gpt2_moe beside its extents.
struct GPT2 {
  bool use_moe = true;                       // false: dense FFNs, the original GPT-2
  Activation activation = Activation::gelu;  // or relu, silu (swish), tanh
};

// GPT-2 small (Radford et al. 2019; tanh form of GELU, biases, tied head) with an MoE layer in every block:
// softmax, top-2 of 8, renormalised gates (with top-1 the gate is the probability), score-variance loss, and
// dropout of experts with a rate of its own.
template <Extents X = Extents{.vocab = 50257, .context = 1024, .dim = 768, .layers = 12, .heads = 12},
          GPT2 Options = GPT2{}>
struct gpt2_moe {
  static constexpr Extents extents = X.with({.experts = 8, .active = 2});
  static_assert(extents.experts >= 1 && extents.active >= 1 && extents.active <= extents.experts,
                "gpt2_moe: experts must be at least 1, active from 1 to experts");
  static constexpr Config config = [] {
    Config c = config_of(extents);
    c.attention_bias = true, c.tied = true, c.activation = Options.activation;
    return c;
  }();
  using RouterRecipe =
      std::conditional_t<Options.use_moe, TopKRouter<extents.experts, extents.active>, Dense>;
  // expert_dropout: none: that of the model
  static Objective objective(std::optional<double> expert_dropout = {}) {
    return {.dropout = 0.1, .expert_dropout = expert_dropout, .variance = 0.01};
  }
  static ModelOptions options() { return {}; }
  static constexpr Init init = Init::gpt2;
};

// Switch-Base (Fedus et al. 2021; google/switch-base-128 on Hugging Face): an MoE layer in every second
// block, top-1 of 128, capacity factor 1.25, minimum capacity 4 (Mesh-TensorFlow), router input jitter.
// Differs: a decoder, with rotary instead of relative positions.
template <Extents X = Extents{.vocab = 32128, .context = 512, .dim = 768, .layers = 12, .heads = 12}>
struct switch_base {
  static constexpr Extents extents = X.with({.experts = 128});
  static_assert(X.active <= 1, "switch_base: a token has one expert: leave out active");
  static constexpr Config config = [] {
    Config c = config_of(extents);
    c.norm = Norm::rms, c.positions = Positions::rotary, c.activation = Activation::relu, c.tied = true;
    c.output_bias = c.expert_bias = false, c.moe_every = 2;
    return c;
  }();
  using RouterRecipe = InputJitter<TopKRouter<extents.experts, 1>>;
  static Objective objective() { return {.dropout = 0.1, .balance = 0.01}; }
  static ModelOptions options() { return {.norm_epsilon = 1e-6, .capacity_factor = 1.25, .min_capacity = 4}; }
  static constexpr Init init = Init::gpt2;
};

// GShard (Lepikhin et al. 2020): post-norm, an MoE layer in every second block, top-2 with a random second
// expert, 2 slots per token. Differs: a decoder; causal, because experts accept tokens in order.
template <Extents X =
              Extents{
                  .vocab = 64000, .context = 1024, .dim = 1024, .layers = 12, .heads = 16, .head_dim = 128}>
struct gshard {
  static constexpr Extents extents = X.with({.hidden = 8 * X.dim, .experts = 128});
  static_assert(X.active == 0 || X.active == 2, "gshard: a token has two experts: leave out active");
  static constexpr Config config = [] {
    Config c = config_of(extents);
    c.residual = Residual::post_norm, c.activation = Activation::relu, c.tied = true, c.moe_every = 2;
    return c;
  }();
  using RouterRecipe = GShardRouter<extents.experts>;
  static Objective objective() {
    return {.dropout = 0.1, .balance = 0.01, .balance_rule = BalanceRule::gshard};
  }
  static ModelOptions options() { return {.capacity_factor = 1, .min_capacity = 4}; }
  static constexpr Init init = Init::gpt2;
};

// GLaM 0.1B/64E (Du et al. 2021): a decoder with an MoE layer in every second block, GShard's top-2 of 64.
// Differs: experts are gated (GEGLU), as its dense FFNs are; rotary instead of relative positions.
template <Extents X = Extents{.vocab = 256000, .context = 1024, .dim = 768, .layers = 12, .heads = 12}>
struct glam {
  static constexpr Extents extents = X.with({.experts = 64});
  static_assert(X.active == 0 || X.active == 2, "glam: a token has two experts: leave out active");
  static constexpr Config config = [] {
    Config c = config_of(extents);
    c.positions = Positions::rotary, c.gated = true, c.tied = true, c.moe_every = 2;
    c.output_bias = c.expert_bias = false;
    return c;
  }();
  using RouterRecipe = GShardRouter<extents.experts>;
  static Objective objective() { return {.balance = 0.01, .balance_rule = BalanceRule::gshard}; }
  static ModelOptions options() { return {.capacity_factor = 1, .min_capacity = 4}; }
  static constexpr Init init = Init::gpt2;
};

// Mixtral 8x7B (Jiang et al. 2024; mistralai/Mixtral-8x7B-v0.1 on Hugging Face): an MoE layer in every block,
// softmax of the two largest of 8 logits, four query heads per key/value head.
template <Extents X = Extents{.vocab = 32000, .context = 32768, .dim = 4096, .layers = 32, .heads = 32}>
struct mixtral {
  static constexpr Extents extents =
      X.with({.kv_heads = X.heads / 4, .hidden = 7 * X.dim / 2, .experts = 8, .active = 2});
  static constexpr Config config = llama_config_of(extents);
  using RouterRecipe = TopKRouter<extents.experts, extents.active>;
  static Objective objective() { return {.balance = 0.02, .balance_rule = BalanceRule::huggingface}; }
  static ModelOptions options() { return {.rotary_base = 1e6}; }
  static constexpr Init init = Init::gpt2;
};

// OLMoE-1B-7B (Muennighoff et al. 2024; allenai/OLMoE-1B-7B-0924): top-8 of 64 small experts, unnormalised
// gates, norms of queries and keys over all heads, balance and z-loss.
template <Extents X = Extents{.vocab = 50304, .context = 4096, .dim = 2048, .layers = 16, .heads = 16}>
struct olmoe {
  static constexpr Extents extents = X.with({.hidden = X.dim / 2, .experts = 64, .active = 8});
  static constexpr Config config = [] {
    Config c = llama_config_of(extents);
    c.query_key_norm = QueryKeyNorm::full;
    return c;
  }();
  using RouterRecipe = TopKRouter<extents.experts, extents.active, TopK{.gates = Gates::probability}>;
  static Objective objective() {
    return {.balance = 0.01, .balance_rule = BalanceRule::megablocks, .z = 0.001};
  }
  static ModelOptions options() { return {}; }
  static constexpr Init init = Init::gpt2;
};

// Qwen1.5-MoE-A2.7B (Qwen team 2024; Qwen/Qwen1.5-MoE-A2.7B): top-4 of 60 small experts, unnormalised gates,
// a gated shared expert as wide as four; biases of query, key and value.
template <Extents X = Extents{.vocab = 151936, .context = 8192, .dim = 2048, .layers = 24, .heads = 16}>
struct qwen_moe {
  static constexpr Extents extents = X.with({.hidden = 11 * X.dim / 16, .experts = 60, .active = 4});
  static constexpr Config config = [] {
    Config c = llama_config_of(extents);
    c.attention_bias = true;
    return c;
  }();
  using Routed = TopKRouter<extents.experts, extents.active, TopK{.gates = Gates::probability}>;
  using RouterRecipe = SharedExperts<Routed, 4, Shared::gated>;
  static Objective objective() { return {.balance = 0.001, .balance_rule = BalanceRule::huggingface}; }
  static ModelOptions options() { return {.norm_epsilon = 1e-6, .rotary_base = 1e6}; }
  static constexpr Init init = Init::gpt2;
};

// Qwen3-30B-A3B (Qwen team 2025; Qwen/Qwen3-30B-A3B): top-8 of 128 small experts, renormalised gates, no
// shared expert, norms of queries and keys of each head, heads wider than dim / heads, eight query heads per
// key/value head. Differs: balance over a batch instead of a global batch.
template <Extents X =
              Extents{
                  .vocab = 151936, .context = 40960, .dim = 2048, .layers = 48, .heads = 32, .head_dim = 128}>
struct qwen3_moe {
  static constexpr Extents extents = X.with(
      {.kv_heads = X.heads % 8 == 0 ? X.heads / 8 : 1, .hidden = 3 * X.dim / 8, .experts = 128, .active = 8});
  static constexpr Config config = [] {
    Config c = llama_config_of(extents);
    c.query_key_norm = QueryKeyNorm::head;
    return c;
  }();
  using RouterRecipe = TopKRouter<extents.experts, extents.active>;
  static Objective objective() { return {.balance = 0.001, .balance_rule = BalanceRule::huggingface}; }
  static ModelOptions options() { return {.norm_epsilon = 1e-6, .rotary_base = 1e6}; }
  static constexpr Init init = Init::gpt2;
};

// Granite 3.1 1B-A400M (IBM 2024; ibm-granite/granite-3.1-1b-a400m-base): top-8 of 32 small experts, softmax
// of the logits of these, a tied head, and scales of embeddings, attention scores, branches and logits.
template <Extents X = Extents{.vocab = 49155, .context = 131072, .dim = 1024, .layers = 24, .heads = 16}>
struct granite_moe {
  static constexpr Extents extents = X.with({.kv_heads = X.heads % 2 == 0 ? X.heads / 2 : X.heads,
                                             .hidden = X.dim / 2,
                                             .experts = 32,
                                             .active = 8});
  static constexpr Config config = [] {
    Config c = llama_config_of(extents);
    c.tied = true;
    return c;
  }();
  using RouterRecipe = TopKRouter<extents.experts, extents.active>;
  static Objective objective() { return {.balance = 0.001, .balance_rule = BalanceRule::huggingface}; }
  static ModelOptions options() {
    return {.norm_epsilon = 1e-6,
            .rotary_base = 1.5e6,
            .attention_scale = 1 / double(config.attention().width()),
            .embedding_scale = 12,
            .residual_scale = 0.22,
            .logit_scale = 1.0 / 6};
  }
  static constexpr Init init = Init::gpt2;
};

// DeepSeekMoE as in DeepSeek-V3 (Liu et al. 2024; deepseek-ai/DeepSeek-V3): the first 3 of 61 blocks have
// dense, wider FFNs; then sigmoid scores, top-8 of 256 small experts in the best 4 of 8 expert groups, one
// shared expert, a selection bias, and a small balance loss per sequence. Differs: multi-head instead of
// multi-head latent attention, no multi-token prediction.
template <Extents X =
              Extents{
                  .vocab = 129280, .context = 4096, .dim = 7168, .layers = 61, .heads = 128, .head_dim = 128}>
struct deepseek_moe {
  static constexpr Extents extents = X.with({.hidden = 2 * X.dim / 7, .experts = 256, .active = 8});
  static constexpr Config config = [] {
    Config c = llama_config_of(extents);
    c.dense_hidden = 9 * extents.hidden, c.dense_first = (3 * X.layers + 60) / 61;
    return c;
  }();
  // With few experts there is a single group.
  static constexpr bool grouped = extents.experts % 16 == 0 && extents.experts / 2 >= extents.active;
  static constexpr Sigmoid sigmoid{
      .normalise = extents.active > 1, .groups = grouped ? 8 : 1, .groups_kept = grouped ? 4 : 1};
  using RouterRecipe =
      SharedExperts<SigmoidRouter<extents.experts, extents.active, sigmoid, std::ratio<5, 2>>>;
  static constexpr double balance_rate = 0.001;  // rate of balance_selection, called after each step
  static Objective objective() { return {.balance = 1e-4, .balance_rule = BalanceRule::deepseek}; }
  static ModelOptions options() { return {.norm_epsilon = 1e-6}; }
  static constexpr Init init = Init::gpt2;
};

// A dense mixture in a post-norm encoder (experts as in Jacobs et al. 1991, block as in Vaswani et al. 2017):
//   x = norm(x + attention(x)),  x = norm(x + W relu(sum_e p_e (W_e x + b_e)) + b),  p = softmax(gate(x))
// Every expert is one linear map to `hidden` features, and every token has all of them. Attention is not
// masked and has biases. Train it on Batch::targets, such as masked tokens.
template <Extents X = Extents{.vocab = 65, .context = 64, .dim = 128, .layers = 4, .heads = 4}>
struct dense_mixture {
  static constexpr Extents extents = X.with({.hidden = 4 * X.dim, .experts = 8});
  static_assert(X.active == 0, "dense_mixture: a token has all experts: leave out active");
  static constexpr Config config = [] {
    Config c = config_of(extents);
    c.mask = Mask::full, c.residual = Residual::post_norm, c.attention_bias = true, c.head_bias = true;
    return c;
  }();
  using RouterRecipe =
      WithSharedProjection<AllExperts<extents.experts, true>, extents.hidden, Activation::relu>;
  static Objective objective() { return {}; }
  static ModelOptions options() { return {}; }
  static constexpr Init init = Init::gpt2;
};

// An encoder with residual sums and no norms, whose last layer has a mixture with a learned expert mask for
// each task: gates are masked, not renormalised, probabilities of the top-2 of 4 linear experts, which share
// an output projection; squared-count loss, dropout of experts. Differs: the mixture replaces the last
// layer's feed-forward network, and its output is added to its input.
template <Extents X = Extents{.vocab = 65, .context = 64, .dim = 128, .layers = 4, .heads = 4}, int Tasks = 2>
struct masked_encoder {
  static constexpr Extents extents = X.with({.hidden = 4 * X.dim, .experts = 4, .active = 2});
  static constexpr Config config = [] {
    Config c = config_of(extents);
    c.mask = Mask::full, c.residual = Residual::no_norm, c.activation = Activation::relu;
    c.attention_bias = c.head_bias = true, c.mixture_at = {X.layers - 1};
    return c;
  }();
  using Routed = TopKRouter<extents.experts, extents.active, TopK{.gates = Gates::probability, .bias = true}>;
  using RouterRecipe = WithSharedProjection<Masked<Routed, Tasks>, extents.hidden>;
  static Objective objective() { return {.dropout = 0.1, .count = 1e-4}; }
  static ModelOptions options() { return {}; }
  static constexpr Init init = Init::gpt2;
};

}  // namespace presets
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
