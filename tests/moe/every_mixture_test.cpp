// Invariants of every router and every kind of mixture, each tested for all of them.
#include <moegpt/routing/all_experts.hpp>
#include <moegpt/routing/cosine_router.hpp>
#include <moegpt/routing/dropping.hpp>
#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/moe/feed_forward.hpp>
#include <moegpt/routing/gshard_router.hpp>
#include <moegpt/routing/hash_router.hpp>
#include <moegpt/routing/hierarchical_router.hpp>
#include <moegpt/routing/input_jitter.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>
#include <moegpt/moe/projected_mixture.hpp>
#include <moegpt/moe/shared_experts.hpp>
#include <moegpt/routing/sigmoid_router.hpp>
#include <moegpt/moe/soft_moe.hpp>
#include <moegpt/routing/top_p_router.hpp>

#include "support/any_layer.hpp"

using namespace moegpt;

namespace {

using Ffn = Expert<9, 5, Activation::gelu, float>;
using Narrow = LinearExpert<9, 9, float>;

// A mixture for each router specification, with tiny experts.
template <class Recipe>
AnyLayer& add_rule(Layers& layers, const char* name, Mates mates = Mates::none) {
  AnyLayer& layer = layers.add<MixtureOf<Recipe, Narrow>>(name, mates);
  layer.drops_out = !requires { requires !Recipe::drops; };  // expert choice leaves tokens without experts
  return layer;
}

template <class Mixture>
AnyLayer& add_mixture(Layers& layers, const char* name) {
  AnyLayer& layer = layers.add<Mixture>(name);
  layer.drops_out = true;
  return layer;
}

// Every router, and every wrapper around some router that it could break.
Layers every_mixture() {
  Layers all;
  add_rule<TopKRouter<5, 2>>(all, "TopKRouter");
  add_rule<TopKRouter<5, 1>>(all, "TopKRouter, K = 1");
  add_rule<TopKRouter<4, 4, TopK{.gates = Gates::probability}>>(all, "TopKRouter, K = E");
  add_rule<TopKRouter<1, 1>>(all, "TopKRouter, E = 1");
  add_rule<TopKRouter<17, 3, TopK{.bias = true, .selection_bias = true}>>(all,
                                                                          "TopKRouter with a selection bias");
  add_rule<TopKRouterWith<5, 3, PNormGates<2>>>(all, "TopKRouterWith");
  add_rule<TopPRouter<5, 4>>(all, "TopPRouter");
  add_rule<SigmoidRouter<8, 3, Sigmoid{.groups = 4, .groups_kept = 2}, std::ratio<5, 2>>>(all,
                                                                                          "SigmoidRouter");
  add_rule<SigmoidRouter<5, 2, Sigmoid{.normalise = false, .selection_bias = false, .root_softplus = true}>>(
      all, "SigmoidRouter of softplus");
  add_rule<GShardRouter<5>>(all, "GShardRouter").noisy = true;
  add_rule<GShardRouter<5, Second::threshold, std::ratio<2, 5>>>(all, "GShardRouter by threshold");
  add_rule<HashRouter<5, 2>>(all, "HashRouter");
  add_rule<CosineRouter<5, 2, 3>>(all, "CosineRouter");
  add_rule<NoisyTopKRouter<5, 2>>(all, "NoisyTopKRouter").noisy = true;
  add_rule<NoisyTopKRouter<3, 3, NoisyTopK{.bias = true, .noise_floor = true}>>(all, "NoisyTopKRouter, K = E")
      .noisy = true;
  add_rule<AllExperts<4>>(all, "AllExperts");
  add_rule<InputJitter<TopKRouter<5, 1>>>(all, "InputJitter").noisy = true;
  add_rule<InputJitter<GShardRouter<5>, std::ratio<1, 2>>>(all, "InputJitter around GShardRouter").noisy =
      true;
  add_rule<Masked<TopKRouter<5, 2>, 3>>(all, "Masked").tasks = 3;
  AnyLayer& masked = add_rule<Masked<NoisyTopKRouter<5, 2>, 2>>(all, "Masked around NoisyTopKRouter");
  masked.tasks = 2, masked.noisy = true;
  add_rule<HierarchicalRouter<NoisyTopKRouter<3, 2>, GShardRouter<4>>>(all, "HierarchicalRouter").noisy =
      true;
  add_rule<HierarchicalRouter<AllExperts<3>, TopPRouter<3, 2>>>(all, "HierarchicalRouter, dense outside");
  add_rule<Dropping<TopKRouter<5, 2>, Drop::token_order, Group::sequence>>(all, "Dropping in token order");
  add_rule<Dropping<GShardRouter<5>, Drop::slot_major, Group::sequence>>(all, "Dropping by choice").noisy =
      true;
  add_rule<Dropping<TopPRouter<5, 3>, Drop::batch_prioritised, Group::position>>(all, "Dropping by position");
  add_rule<Dropping<NoisyTopKRouter<5, 2>, Drop::probability, Group::batch, Round::up>>(all,
                                                                                        "Dropping by gate")
      .noisy = true;
  add_rule<ExpertChoiceRouter<5>>(all, "ExpertChoiceRouter", Mates::batch);
  add_rule<ExpertChoiceRouter<5, 2, ExpertChoice{.group = Group::sequence}>>(
      all, "ExpertChoiceRouter by sequence", Mates::sequence);
  add_rule<ExpertChoiceRouter<3, 1, ExpertChoice{.group = Group::position}>>(
      all, "ExpertChoiceRouter by position", Mates::position);
  add_rule<ThresholdExpertChoice<5>>(all, "ThresholdExpertChoice", Mates::batch);
  add_mixture<MoELayer<TopKRouter<5, 2>, GatedExpert<9, 3>>>(all, "MoELayer of gated experts");
  add_mixture<FeedForward<Ffn>>(all, "FeedForward");
  add_mixture<MixtureOf<SharedExperts<TopKRouter<5, 2>>, Ffn>>(all, "SharedExperts");
  add_mixture<MixtureOf<SharedExperts<GShardRouter<5>, 2, Shared::gated>, Ffn>>(all, "SharedExperts, gated")
      .noisy = true;
  add_mixture<MixtureOf<SharedExperts<NoisyTopKRouter<5, 2>, 1, Shared::weighted>, Ffn>>(
      all, "SharedExperts, weighted")
      .noisy = true;
  add_mixture<MixtureOf<WithSharedProjection<NoisyTopKRouter<5, 2>, 7, Activation::relu>, Ffn>>(
      all, "WithSharedProjection")
      .noisy = true;
  all.add<MixtureOf<SoftMoE<3, 2>, Ffn>>("SoftMoE", Mates::sequence);
  all.add<MixtureOf<SharedExperts<SoftMoE<3, 2>>, Ffn>>("SharedExperts around SoftMoE", Mates::sequence);
  return all;
}

const Layers& mixtures() {
  static const Layers all = every_mixture();
  return all;
}

}  // namespace

TEST_CASE(
    "every mixture gives a token the same bits in a batch, alone, in chunks and token by token, with and "
    "without a key") {
  for (const auto& layer : mixtures()) {
    check_law_6(*layer, {});
    check_law_6(*layer, {.dropout = 0.3, .key = Key{71}});
  }
}

TEST_CASE(
    "every mixture whose capacity is of a position or a sequence keeps a token's bits within its capacity "
    "group") {
  Layers some;
  add_rule<Dropping<GShardRouter<5>, Drop::slot_major, Group::sequence>>(some, "by sequence",
                                                                         Mates::sequence);
  add_rule<Dropping<NoisyTopKRouter<5, 2>, Drop::probability, Group::position>>(some, "by position",
                                                                                Mates::position);
  add_rule<ExpertChoiceRouter<3, 1, ExpertChoice{.group = Group::position}>>(some, "expert choice",
                                                                             Mates::position);
  for (const auto& layer : some)
    check_law_6(*layer,
                {.options = {.capacity_factor = 0.6}, .dropout = 0.3, .key = Key{72}, .partial = true});
}

TEST_CASE(
    "every mixture samples noise and dropout for every token of every sequence, and none without a key") {
  for (const auto& layer : mixtures()) check_draws(*layer);
}

TEST_CASE(
    "no mixture depends on the previous contents of its memory: other lengths, shapes, keys, capacities and "
    "objectives") {
  for (const auto& layer : mixtures()) check_memory(*layer);
}

TEST_CASE(
    "every mixture of tokens gives parts of a call the bits of the whole, and gradients that add up, at any "
    "size") {
  for (const auto& layer : mixtures())
    if (layer->mates == Mates::none) check_sizes(*layer);
}

TEST_CASE(
    "every mixture has the same losses of the batch whether balance is of the batch or of its sequences") {
  for (const auto& layer : mixtures()) check_losses(*layer);
}

TEST_CASE(
    "every mixture treats a padded sequence as one without padding, forward and backward, with and without a "
    "key") {
  for (const auto& layer : mixtures()) {
    if (layer->mates != Mates::none && layer->mates != Mates::sequence) continue;
    check_padding(*layer, {});
    check_padding(*layer, Key{73});
  }
}
