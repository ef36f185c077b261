// What every layer outside of mixtures, and whole models, have to keep: tests/moe/every_mixture_test.cpp for these.
#include <moegpt/moe/gshard_router.hpp>
#include <moegpt/moe/input_jitter.hpp>
#include <moegpt/moe/masked.hpp>
#include <moegpt/model/gpt.hpp>

#include "support.hpp"
#include "support/any_layer.hpp"

namespace {

constexpr AttentionShape few{.dim = 9, .heads = 3, .bias = true};
constexpr AttentionShape turning{.dim = 9, .heads = 4, .kv_heads = 2, .head_dim = 6, .rotary = true};
constexpr AttentionShape one_key_head{.dim = 9, .heads = 2, .kv_heads = 1, .head_dim = 5, .output_bias = false};
constexpr AttentionShape both_ways{.dim = 9, .heads = 4, .head_dim = 2, .mask = Mask::full, .rotary = true};
using Narrow = LinearExpert<9, 9, float>;

template <class L>
void add_attention(Layers& layers, const char* name, Mates mates = Mates::none) {
  AnyLayer& layer = layers.add<L>(name, mates);
  layer.drops_out = true, layer.alike = false;   // sums over more equal values are rounded otherwise
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
  add_attention<Block<turning, RMSNorm<9>, MoELayer<GShardRouter<5>, Narrow>>>(all, "Block");
  add_attention<Block<few, NoNorm<9>, MoELayer<InputJitter<TopKRouter<5, 1>>, Narrow>>>(all, "Block without norms");
  add_attention<PostNormBlock<few, LayerNorm<9>, MoELayer<NoisyTopKRouter<5, 2>, Narrow>>>(all, "PostNormBlock");
  add_attention<PostNormBlock<both_ways, LayerNorm<9>, FeedForward<Narrow>>>(all, "PostNormBlock of an encoder",
                                                                             Mates::sequence);
  return all;
}

const Layers& layers() {
  static const Layers all = every_layer();
  return all;
}

constexpr Config config{.vocab = 13, .context = 8, .dim = 12, .layers = 3, .heads = 4, .kv_heads = 2, .hidden = 5,
                        .positions = Positions::rotary, .dense_first = 1};
using Model = GPT<config, Masked<NoisyTopKRouter<5, 2>, 2>>;

}  // namespace

TEST_CASE("every layer gives a token the same bits in a batch, alone, in pieces and token by token, keyed or not") {
  for (const auto& layer : layers()) {
    check_law_6(*layer, {});
    check_law_6(*layer, {.objective = {.dropout = 0.3}, .key = Key{71}});
  }
}

TEST_CASE("every layer drops out anew for every token of every sequence, and nothing without a key") {
  for (const auto& layer : layers()) check_draws(*layer);
}

TEST_CASE("every layer forgets what its memory held: other lengths, shapes, keys and objectives") {
  for (const auto& layer : layers()) check_memory(*layer);
}

TEST_CASE("every layer treats a padded sequence as one without padding, forward and backward, keyed or not") {
  for (const auto& layer : layers()) {
    check_padding(*layer, {});
    check_padding(*layer, Key{73});
  }
}

TEST_CASE("a workspace forgets batches of every shape, key, objective, task and choice of experts") {
  const auto model = random_model<Model>(1);
  Rng rng(9);
  Workspace<Model> used({4, 8});
  for (int call = 0; call < 30; ++call) {
    const auto coin = [&] { return rng.below(2) == 0; };
    const Shape shape{1 + static_cast<Index>(rng.below(4)), 1 + static_cast<Index>(rng.below(8))};
    Objective objective{.dropout = coin() ? 0.2 : 0, .balance = 0.2, .z = coin() ? 0.1 : 0,
                        .importance = coin() ? 0.1 : 0, .load = coin() ? 0.1 : 0};
    if (coin()) objective.balance_rule = BalanceRule::huggingface;
    if (coin()) objective.balance_rule.group = Group::sequence;
    std::optional<Key> key;
    if (coin()) key = Key{rng.bits()};
    model->options.capacity_factor = coin() ? 0.6 : 0;
    model->options.min_capacity = 1;
    const bool some[] = {true, coin(), true, coin(), true}, restricted = coin();
    Batch batch = random_batch(shape, config.vocab, rng.bits());
    if (coin()) batch.targets[0] = -1;
    Workspace<Model> fresh(shape, {}, objective);
    Loss loss[2];
    Model grad[2];
    for (const int i : {0, 1}) {
      Workspace<Model>& work = i == 0 ? used : fresh;
      work.objective = objective;
      work.allowed = restricted ? some : nullptr;
      work.task = call / 3 % 2;
      loss[i] = model->forward(batch, work, key);
      model->backward(batch, work, grad[i]);
    }
    CAPTURE(call, shape.batch, shape.length);
    CHECK(loss[0].cross_entropy == loss[1].cross_entropy);
    CHECK(loss[0].total(objective) == loss[1].total(objective));
    CHECK(first_difference(grad[0], grad[1]) == "");
  }
}
