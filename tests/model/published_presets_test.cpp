// Presets at their published extents against numbers that were read in papers and configurations, not in the
// code.
#include <moegpt/model/presets.hpp>

#include "support/catch.hpp"

using namespace moegpt;

namespace {

bool same(const Objective& a, const Objective& b) {
  return a.dropout == b.dropout && a.balance == b.balance && a.balance_rule == b.balance_rule && a.z == b.z &&
         a.importance == b.importance && a.load == b.load && a.variation == b.variation &&
         a.variance == b.variance && a.count == b.count;
}

// What every preset has: a decoder.
template <class Preset, class Router>
void check_published(const Config& config, const ModelOptions& options, const Objective& objective,
                     Init init) {
  STATIC_REQUIRE(std::is_same_v<typename Preset::RouterRecipe, Router>);
  CHECK(Preset::config == config);
  CHECK(Preset::options() == options);
  CHECK(same(Preset::objective(), objective));
  CHECK(Preset::init == init);
}
int mixtures(const Config& c) {
  int n = 0;
  for (int layer = 0; layer < c.layers; ++layer) n += c.is_moe(layer);
  return n;
}

}  // namespace

// github.com/AviSoori1x/makeMoE, makeMoE.py: n_embed 128, n_head 8, n_layer 8, block_size 32, dropout 0.1, 8
// experts, top_k 2, ReLU of width 4 n_embed; wei = q k^T C^-0.5 with C = n_embed; query, key and value
// without bias, every other Linear with one; kaiming_normal_. The version with capacity: int(tokens * top_k /
// num_experts * 1.0).
TEST_CASE("makemoe is what its program says") {
  using Preset = presets::makemoe<>;
  check_published<Preset, NoisyTopKRouter<8, 2, NoisyTopK{.bias = true}>>(
      {.vocab = 65,
       .context = 32,
       .dim = 128,
       .layers = 8,
       .heads = 8,
       .mask = Mask::causal,
       .norm = Norm::layer,
       .residual = Residual::pre_norm,
       .positions = Positions::learned,
       .activation = Activation::relu,
       .gated = false,
       .attention_bias = false,
       .output_bias = true,
       .expert_bias = true,
       .head_bias = true,
       .tied = false},
      {.norm_epsilon = 1e-5,
       .attention_scale = 1 / std::sqrt(128.0),
       .capacity_factor = 1,
       .min_capacity = 1},
      {.dropout = 0.1}, Init::makemoe);
  CHECK(Preset::config.expert_width() == 512);
  CHECK(mixtures(Preset::config) == 8);
}

// gpt2 (config.json): n_embd 768, n_layer 12, n_head 12, n_positions 1024, vocab 50257, gelu_new,
// layer_norm_epsilon 1e-5, dropouts 0.1, tied; brief C of its mixture: 8 experts, top 2.
TEST_CASE("gpt2_moe is GPT-2 small with eight experts") {
  using Preset = presets::gpt2_moe<>;
  check_published<Preset, TopKRouter<8, 2, TopK{.gates = Gates::renormalised}>>(
      {.vocab = 50257,
       .context = 1024,
       .dim = 768,
       .layers = 12,
       .heads = 12,
       .norm = Norm::layer,
       .residual = Residual::pre_norm,
       .positions = Positions::learned,
       .activation = Activation::gelu,
       .gated = false,
       .attention_bias = true,
       .output_bias = true,
       .expert_bias = true,
       .head_bias = false,
       .tied = true},
      {.norm_epsilon = 1e-5}, {.dropout = 0.1, .variance = 0.01}, Init::gpt2);
  CHECK(Preset::config.expert_width() == 3072);
  CHECK(mixtures(Preset::config) == 12);
}

// google/switch-base-128 (config.json): d_model 768, d_ff 3072, num_layers 12, num_heads 12, d_kv 64,
// num_experts 128, num_sparse_decoder_layers 6, router_jitter_noise 0.01, layer_norm_epsilon 1e-6,
// dropout_rate 0.1, relu, vocab 32128, tied, no biases; the paper: alpha 0.01, capacity 1.25;
// Mesh-TensorFlow: at least 4.
TEST_CASE("switch_base is what its paper and configuration say") {
  using Preset = presets::switch_base<>;
  check_published<Preset,
                  InputJitter<TopKRouter<128, 1, TopK{.gates = Gates::probability}>, std::ratio<1, 100>>>(
      {.vocab = 32128,
       .context = 512,
       .dim = 768,
       .layers = 12,
       .heads = 12,
       .norm = Norm::rms,
       .residual = Residual::pre_norm,
       .positions = Positions::rotary,
       .activation = Activation::relu,
       .gated = false,
       .attention_bias = false,
       .output_bias = false,
       .expert_bias = false,
       .tied = true,
       .moe_every = 2},
      {.norm_epsilon = 1e-6, .capacity_factor = 1.25, .min_capacity = 4},
      {.dropout = 0.1, .balance = 0.01, .balance_rule = BalanceRule::switch_transformer}, Init::gpt2);
  CHECK(Preset::config.expert_width() == 3072);
  CHECK(mixtures(Preset::config) == 6);
  CHECK_FALSE(Preset::config.is_moe(0));  // 1, 3, 5, ...
  CHECK(Preset::config.is_moe(1));
}

// Lepikhin et al. 2020: M = 1024, H = 8192, 16 heads of 128, 12 layers, every second a mixture of 128
// experts, 64000 pieces, capacity 2 N / E. Mesh-TensorFlow: threshold 0.2 of the random second expert, at
// least 4 tokens an expert.
TEST_CASE("gshard is what its paper and Mesh-TensorFlow say") {
  using Preset = presets::gshard<>;
  check_published<Preset, GShardRouter<128, Second::random, std::ratio<1, 5>>>(
      {.vocab = 64000,
       .context = 1024,
       .dim = 1024,
       .layers = 12,
       .heads = 16,
       .head_dim = 128,
       .hidden = 8192,
       .norm = Norm::layer,
       .residual = Residual::post_norm,
       .positions = Positions::learned,
       .activation = Activation::relu,
       .gated = false,
       .attention_bias = false,
       .output_bias = true,
       .expert_bias = true,
       .tied = true,
       .moe_every = 2},
      {.capacity_factor = 1, .min_capacity = 4},
      {.dropout = 0.1, .balance = 0.01, .balance_rule = BalanceRule::gshard}, Init::gpt2);
  CHECK(mixtures(Preset::config) == 6);
  CHECK(capacity_of(1280, 1, 2, 128, Round::down, 0) == 20);  // 2 * 1280 / 128
}

// Du et al. 2021, table 4, 0.1B/64E: M = 768, H = 3072, 12 layers, 12 heads of 64, 64 experts in every second
// layer, top 2 by GShard's algorithm, balance 0.01, 1024 tokens, 256K pieces, no dropout at first.
TEST_CASE("glam is what its paper says") {
  using Preset = presets::glam<>;
  check_published<Preset, GShardRouter<64, Second::random, std::ratio<1, 5>>>(
      {.vocab = 256000,
       .context = 1024,
       .dim = 768,
       .layers = 12,
       .heads = 12,
       .norm = Norm::layer,
       .residual = Residual::pre_norm,
       .positions = Positions::rotary,
       .activation = Activation::gelu,
       .gated = true,
       .attention_bias = false,
       .output_bias = false,
       .expert_bias = false,
       .tied = true,
       .moe_every = 2},
      {.capacity_factor = 1, .min_capacity = 4}, {.balance = 0.01, .balance_rule = BalanceRule::gshard},
      Init::gpt2);
  CHECK(Preset::config.expert_width() == 3072);
  CHECK(Preset::config.attention().width() == 64);
  CHECK(mixtures(Preset::config) == 6);
}

// mistralai/Mixtral-8x7B-v0.1 (config.json): hidden 4096, intermediate 14336, 32 layers, 32 heads, 8
// key/value heads, vocab 32000, 32768 positions, rms_norm_eps 1e-5, rope_theta 1e6, 8 experts, 2 per token,
// router_aux_loss_coef 0.02, silu, not tied, no biases.
TEST_CASE("mixtral is what its configuration says") {
  using Preset = presets::mixtral<>;
  check_published<Preset, TopKRouter<8, 2, TopK{.gates = Gates::renormalised}>>(
      {.vocab = 32000,
       .context = 32768,
       .dim = 4096,
       .layers = 32,
       .heads = 32,
       .kv_heads = 8,
       .hidden = 14336,
       .norm = Norm::rms,
       .residual = Residual::pre_norm,
       .positions = Positions::rotary,
       .activation = Activation::silu,
       .gated = true,
       .attention_bias = false,
       .output_bias = false,
       .expert_bias = false,
       .head_bias = false,
       .tied = false},
      {.norm_epsilon = 1e-5, .rotary_base = 1e6}, {.balance = 0.02, .balance_rule = BalanceRule::huggingface},
      Init::gpt2);
  CHECK(Preset::config.attention().width() == 128);
  CHECK(mixtures(Preset::config) == 32);
}

// allenai/OLMoE-1B-7B-0924 (config.json) and Muennighoff et al. 2024: hidden 2048, intermediate 1024, 16
// layers, 16 heads, 16 key/value heads, vocab 50304, 4096 positions, rms_norm_eps 1e-5, rope_theta 10000, 64
// experts, 8 per token, norm_topk_prob false, not tied; balance 0.01 by megablocks, z 0.001.
TEST_CASE("olmoe is what its paper and configuration say") {
  using Preset = presets::olmoe<>;
  check_published<Preset, TopKRouter<64, 8, TopK{.gates = Gates::probability}>>(
      {.vocab = 50304,
       .context = 4096,
       .dim = 2048,
       .layers = 16,
       .heads = 16,
       .hidden = 1024,
       .norm = Norm::rms,
       .residual = Residual::pre_norm,
       .positions = Positions::rotary,
       .query_key_norm = QueryKeyNorm::full,
       .activation = Activation::silu,
       .gated = true,
       .attention_bias = false,
       .output_bias = false,
       .expert_bias = false,
       .head_bias = false,
       .tied = false},
      {.norm_epsilon = 1e-5, .rotary_base = 10000},
      {.balance = 0.01, .balance_rule = BalanceRule::megablocks, .z = 0.001}, Init::gpt2);
  CHECK(Preset::config.attention().key_value_heads() == 16);
  CHECK(mixtures(Preset::config) == 16);
}

// Qwen/Qwen1.5-MoE-A2.7B (config.json): hidden 2048, moe_intermediate 1408, shared_expert_intermediate 5632,
// 24 layers, 16 heads, vocab 151936, 8192 positions, rms_norm_eps 1e-6, rope_theta 1e6, 60 experts, 4 per
// token, norm_topk_prob false, router_aux_loss_coef 0.001, not tied; biases of query, key and value.
TEST_CASE("qwen_moe is what its configuration says") {
  using Preset = presets::qwen_moe<>;
  check_published<Preset,
                  SharedExperts<TopKRouter<60, 4, TopK{.gates = Gates::probability}>, 4, Shared::gated>>(
      {.vocab = 151936,
       .context = 8192,
       .dim = 2048,
       .layers = 24,
       .heads = 16,
       .hidden = 1408,
       .norm = Norm::rms,
       .residual = Residual::pre_norm,
       .positions = Positions::rotary,
       .activation = Activation::silu,
       .gated = true,
       .attention_bias = true,
       .output_bias = false,
       .expert_bias = false,
       .head_bias = false,
       .tied = false},
      {.norm_epsilon = 1e-6, .rotary_base = 1e6},
      {.balance = 0.001, .balance_rule = BalanceRule::huggingface}, Init::gpt2);
  CHECK(mixtures(Preset::config) == 24);
}

// Qwen/Qwen3-30B-A3B (config.json): hidden 2048, moe_intermediate 768, 48 layers, 32 heads, 4 key/value
// heads, head_dim 128, vocab 151936, 40960 positions, rms_norm_eps 1e-6, rope_theta 1e6, 128 experts, 8 per
// token, norm_topk_prob true, decoder_sparse_step 1, router_aux_loss_coef 0.001, not tied; q_norm and k_norm
// of 128.
TEST_CASE("qwen3_moe is what its configuration says") {
  using Preset = presets::qwen3_moe<>;
  check_published<Preset, TopKRouter<128, 8>>({.vocab = 151936,
                                               .context = 40960,
                                               .dim = 2048,
                                               .layers = 48,
                                               .heads = 32,
                                               .kv_heads = 4,
                                               .head_dim = 128,
                                               .hidden = 768,
                                               .norm = Norm::rms,
                                               .residual = Residual::pre_norm,
                                               .positions = Positions::rotary,
                                               .query_key_norm = QueryKeyNorm::head,
                                               .activation = Activation::silu,
                                               .gated = true,
                                               .attention_bias = false,
                                               .output_bias = false,
                                               .expert_bias = false,
                                               .head_bias = false,
                                               .tied = false},
                                              {.norm_epsilon = 1e-6, .rotary_base = 1e6},
                                              {.balance = 0.001, .balance_rule = BalanceRule::huggingface},
                                              Init::gpt2);
  CHECK(mixtures(Preset::config) == 48);
}

// ibm-granite/granite-3.1-1b-a400m-base (config.json): hidden 1024, intermediate 512, 24 layers, 16 heads, 8
// key/value heads, vocab 49155, 131072 positions, rms_norm_eps 1e-6, rope_theta 1500000, embedding_multiplier
// 12, attention_multiplier 0.015625, residual_multiplier 0.22, logits_scaling 6, 32 experts, 8 per token,
// tied; router_aux_loss_coef 0.001 by default (GraniteMoeConfig).
TEST_CASE("granite_moe is what its configuration says") {
  using Preset = presets::granite_moe<>;
  check_published<Preset, TopKRouter<32, 8>>({.vocab = 49155,
                                              .context = 131072,
                                              .dim = 1024,
                                              .layers = 24,
                                              .heads = 16,
                                              .kv_heads = 8,
                                              .hidden = 512,
                                              .norm = Norm::rms,
                                              .residual = Residual::pre_norm,
                                              .positions = Positions::rotary,
                                              .activation = Activation::silu,
                                              .gated = true,
                                              .attention_bias = false,
                                              .output_bias = false,
                                              .expert_bias = false,
                                              .head_bias = false,
                                              .tied = true},
                                             {.norm_epsilon = 1e-6,
                                              .rotary_base = 1.5e6,
                                              .attention_scale = 0.015625,
                                              .embedding_scale = 12,
                                              .residual_scale = 0.22,
                                              .logit_scale = 1.0 / 6},
                                             {.balance = 0.001, .balance_rule = BalanceRule::huggingface},
                                             Init::gpt2);
  CHECK(mixtures(Preset::config) == 24);
}

// deepseek-ai/DeepSeek-V3 (config.json) and Liu et al. 2024: hidden 7168, intermediate 18432,
// moe_intermediate 2048, 61 layers, 128 heads, first_k_dense_replace 3, 256 routed experts, 1 shared, 8 per
// token, n_group 8, topk_group 4, sigmoid scores, norm_topk_prob true, routed_scaling_factor 2.5,
// rms_norm_eps 1e-6, rope_theta 10000, vocab 129280, not tied; pre-trained at 4K; the paper, section 4.2:
// bias update speed 0.001, sequence-wise balance 0.0001.
TEST_CASE("deepseek_moe is what its paper and configuration say") {
  using Preset = presets::deepseek_moe<>;
  constexpr Sigmoid sigmoid{.normalise = true, .selection_bias = true, .groups = 8, .groups_kept = 4};
  check_published<Preset, SharedExperts<SigmoidRouter<256, 8, sigmoid, std::ratio<5, 2>>, 1, Shared::plain>>(
      {.vocab = 129280,
       .context = 4096,
       .dim = 7168,
       .layers = 61,
       .heads = 128,
       .head_dim = 128,
       .hidden = 2048,
       .dense_hidden = 18432,
       .norm = Norm::rms,
       .residual = Residual::pre_norm,
       .positions = Positions::rotary,
       .activation = Activation::silu,
       .gated = true,
       .attention_bias = false,
       .output_bias = false,
       .expert_bias = false,
       .head_bias = false,
       .tied = false,
       .dense_first = 3},
      {.norm_epsilon = 1e-6, .rotary_base = 10000},
      {.balance = 0.0001, .balance_rule = BalanceRule::deepseek}, Init::gpt2);
  STATIC_REQUIRE(Preset::balance_rate == 0.001);
  CHECK(mixtures(Preset::config) == 58);
}
