#pragma once
// Presets: published systems by name, as routing rule, losses and block layout, scaled to extents of yours:
//   using Preset = presets::mixtral<presets::Extents{.vocab = 65, .context = 64, .dim = 64, .layers = 4,
//   .heads = 8}>; presets::ModelOf<Preset> model; model.options = Preset::options(); init(model, Key{1},
//   Preset::init);
// and objective() goes to the workspace. Without extents of yours a preset has those that were published.
// What the library does not have is said with each.
#include <moegpt/model/gpt.hpp>
#include <moegpt/model/init.hpp>
#include <moegpt/routing/gshard_router.hpp>
#include <moegpt/routing/input_jitter.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>
#include <moegpt/moe/shared_experts.hpp>
#include <moegpt/routing/sigmoid_router.hpp>

#include <cmath>

namespace moegpt {
inline namespace MOEGPT_BUILD {
namespace presets {

// Yours. What is 0 is as in the system, in proportion where it can be.
struct Extents {
  int vocab, context, dim, layers, heads;
  int kv_heads = 0, head_dim = 0, hidden = 0, experts = 0, active = 0;

  // The same with what was left out.
  constexpr Extents with(Extents usual) const {
    Extents all = *this;
    for (int Extents::* extent : {&Extents::kv_heads, &Extents::hidden, &Extents::experts, &Extents::active})
      if (all.*extent == 0) all.*extent = usual.*extent;
    return all;
  }
};

template <class Preset, class T = float>
using ModelOf = GPT<Preset::config, typename Preset::RouterRecipe, T>;

// Where most systems start from ...
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
// ... and Llama's blocks: RMSNorm, rotary positions, SwiGLU, no biases.
constexpr Config llama_config_of(const Extents& x) {
  Config c = config_of(x);
  c.norm = Norm::rms, c.positions = Positions::rotary, c.activation = Activation::silu, c.gated = true;
  c.output_bias = c.expert_bias = false;
  return c;
}

// makeMoE (github.com/AviSoori1x/makeMoE): attention scaled by the full width, biases everywhere but in
// query, key and value, capacity 1, no balance loss. Its routers keep their noise in evaluation: give forward
// a key there too.
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

// GPT-2 small (Radford et al. 2019; its tanh form of GELU, biases, tied head) with a mixture in every layer:
// softmax, top-2 of 8, renormalised (one of 8 is not: its gate would be 1), and the variance of mean scores
// as balance loss.
template <Extents X = Extents{.vocab = 50257, .context = 1024, .dim = 768, .layers = 12, .heads = 12}>
struct gpt2_moe {
  static constexpr Extents extents = X.with({.experts = 8, .active = 2});
  static constexpr Config config = [] {
    Config c = config_of(extents);
    c.attention_bias = true, c.tied = true;
    return c;
  }();
  using RouterRecipe = TopKRouter<extents.experts, extents.active>;
  static Objective objective() { return {.dropout = 0.1, .variance = 0.01}; }
  static ModelOptions options() { return {}; }
  static constexpr Init init = Init::gpt2;
};

// Switch-Base (Fedus et al. 2021; google/switch-base-128 on Hugging Face): a mixture in every second layer,
// one of 128 experts for a token, capacity 1.25 and at least Mesh-TensorFlow's 4, router jitter. Here a
// decoder, its relative positions rotary ones.
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

// GShard (Lepikhin et al. 2020): post-norm, a mixture in every second layer, top-2 with a random second
// expert, twice as many places as tokens. Here a decoder: full experts keep tokens in their order, which does
// not leak.
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

// GLaM 0.1B/64E (Du et al. 2021): a decoder with a mixture in every second layer, GShard's top-2 of 64. Its
// dense layers have gated GELUs, here its experts too; its relative positions are rotary ones.
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

// Mixtral 8x7B (Jiang et al. 2024; mistralai/Mixtral-8x7B-v0.1 on Hugging Face): a mixture in every layer,
// the logits of the best two of eight through softmax, four query heads for each key/value head.
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

// OLMoE-1B-7B (Muennighoff et al. 2024; allenai/OLMoE-1B-7B-0924): many small experts, 8 of 64, whose gates
// are not renormalised; balance and z-loss. Without its norms of queries and keys.
template <Extents X = Extents{.vocab = 50304, .context = 4096, .dim = 2048, .layers = 16, .heads = 16}>
struct olmoe {
  static constexpr Extents extents = X.with({.hidden = X.dim / 2, .experts = 64, .active = 8});
  static constexpr Config config = llama_config_of(extents);
  using RouterRecipe = TopKRouter<extents.experts, extents.active, TopK{.gates = Gates::probability}>;
  static Objective objective() {
    return {.balance = 0.01, .balance_rule = BalanceRule::megablocks, .z = 0.001};
  }
  static ModelOptions options() { return {}; }
  static constexpr Init init = Init::gpt2;
};

// Qwen1.5-MoE-A2.7B (Qwen team 2024; Qwen/Qwen1.5-MoE-A2.7B): 4 of 60 small experts, gates not renormalised,
// and beside them a shared expert as wide as four, with a gate of its own; biases of query, key and value.
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

// DeepSeekMoE as in DeepSeek-V3 (Liu et al. 2024; deepseek-ai/DeepSeek-V3): first layers dense and wide, then
// 8 of 256 small experts in the best 4 of 8 groups by sigmoid scores, and one shared expert. A selection bias
// keeps the balance; the balance loss is tiny and of each sequence. Attention is ordinary, and one token
// ahead is predicted.
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
  // Of few experts, all are one group.
  static constexpr bool grouped = extents.experts % 16 == 0 && extents.experts / 2 >= extents.active;
  static constexpr Sigmoid sigmoid{
      .normalise = extents.active > 1, .groups = grouped ? 8 : 1, .groups_kept = grouped ? 4 : 1};
  using RouterRecipe =
      SharedExperts<SigmoidRouter<extents.experts, extents.active, sigmoid, std::ratio<5, 2>>>;
  static constexpr double balance_rate = 0.001;  // of balance_selection, after each step
  static Objective objective() { return {.balance = 1e-4, .balance_rule = BalanceRule::deepseek}; }
  static ModelOptions options() { return {.norm_epsilon = 1e-6}; }
  static constexpr Init init = Init::gpt2;
};

}  // namespace presets
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
