// What every layer outside of mixtures has to keep: tests/moe/every_mixture_test.cpp for these.
#include <moegpt/layers/linear_expert.hpp>
#include <moegpt/model/block.hpp>
#include <moegpt/moe/feed_forward.hpp>
#include <moegpt/routing/gshard_router.hpp>
#include <moegpt/routing/input_jitter.hpp>
#include <moegpt/moe/moe_layer.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>

#include "support/any_layer.hpp"

using namespace moegpt;

namespace {

constexpr AttentionShape few{.dim = 9, .heads = 3, .bias = true};
constexpr AttentionShape turning{.dim = 9, .heads = 4, .kv_heads = 2, .head_dim = 6, .rotary = true};
constexpr AttentionShape one_key_head{
    .dim = 9, .heads = 2, .kv_heads = 1, .head_dim = 5, .output_bias = false};
constexpr AttentionShape both_ways{.dim = 9, .heads = 4, .head_dim = 2, .mask = Mask::full, .rotary = true};
constexpr AttentionShape with_adapters{
    .dim = 9, .heads = 4, .kv_heads = 2, .head_dim = 6, .rotary = true, .adapter_rank = 3};
using Narrow = LinearExpert<9, 9, float>;

template <class L>
void add_attention(Layers& layers, const char* name, Mates mates = Mates::none) {
  AnyLayer& layer = layers.add<L>(name, mates);
  layer.drops_out = true, layer.alike = false;  // sums over more equal values are rounded otherwise
}

Layers every_layer() {
  Layers all;
  all.add<Linear<9, 11>>("Linear");
  all.add<LayerNorm<9>>("LayerNorm");
  all.add<RMSNorm<9>>("RMSNorm");
  all.add<NoNorm<9>>("NoNorm");
  all.add<Dropout<9>>("Dropout").drops_out = true;
  add_attention<Attention<few>>(all, "Attention");
  add_attention<Attention<turning>>(all, "Attention, rotary, grouped heads");
  add_attention<Attention<one_key_head>>(all, "Attention, one key/value head");
  add_attention<Attention<both_ways>>(all, "Attention without a mask", Mates::sequence);
  add_attention<Attention<with_adapters>>(all, "Attention with adapters");
  add_attention<Block<turning, RMSNorm<9>, MoELayer<GShardRouter<5>, Narrow>>>(all, "Block");
  add_attention<Block<few, NoNorm<9>, MoELayer<InputJitter<TopKRouter<5, 1>>, Narrow>>>(
      all, "Block without norms");
  add_attention<PostNormBlock<few, LayerNorm<9>, MoELayer<NoisyTopKRouter<5, 2>, Narrow>>>(all,
                                                                                           "PostNormBlock");
  add_attention<PostNormBlock<both_ways, LayerNorm<9>, FeedForward<Narrow>>>(
      all, "PostNormBlock of an encoder", Mates::sequence);
  return all;
}

const Layers& layers() {
  static const Layers all = every_layer();
  return all;
}

}  // namespace

TEST_CASE(
    "every layer gives a token the same bits in a batch, alone, in pieces and token by token, keyed or not") {
  for (const auto& layer : layers()) {
    check_law_6(*layer, {});
    check_law_6(*layer, {.dropout = 0.3, .key = Key{71}});
  }
}

TEST_CASE("every layer drops out anew for every token of every sequence, and nothing without a key") {
  for (const auto& layer : layers()) check_draws(*layer);
}

TEST_CASE("every layer forgets what its memory held: other lengths, shapes, keys and objectives") {
  for (const auto& layer : layers()) check_memory(*layer);
}

TEST_CASE(
    "every layer without attention gives parts of a call the bits of the whole, and gradients that add up") {
  for (const auto& layer : layers())
    if (layer->alike) check_sizes(*layer);
}

TEST_CASE("every layer treats a padded sequence as one without padding, forward and backward, keyed or not") {
  for (const auto& layer : layers()) {
    check_padding(*layer, {});
    check_padding(*layer, Key{73});
  }
}
