// Every gradient of whole models against differences, in double. 1e-6 is the figure; gradcheck
// redraws inputs near a top-k tie. One combination per choice that changes the calculus, not their product.
#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/moe/projected_mixture.hpp>
#include <moegpt/testing/gradcheck.hpp>

#include "support.hpp"

namespace {

constexpr Config plain{.vocab = 7, .context = 5, .dim = 6, .layers = 2, .heads = 2, .hidden = 5};
constexpr Config makemoe = [] {
  Config c = plain;
  c.activation = Activation::tanh;  // relu has kinks; its own gradcheck redraws them
  c.head_bias = true;
  return c;
}();
constexpr Config modern = [] {  // attention has a bias only where keys turn: elsewhere the key's cancels
  Config c = plain;
  c.dim = 8, c.heads = 4, c.kv_heads = 2, c.hidden = 3;
  c.norm = Norm::rms, c.positions = Positions::rotary, c.activation = Activation::silu, c.gated = true;
  c.attention_bias = true, c.output_bias = false, c.expert_bias = false, c.tied = true;
  return c;
}();
constexpr Config wide_heads = [] {
  Config c = plain;
  c.heads = 3, c.kv_heads = 1, c.head_dim = 4;
  c.norm = Norm::rms, c.activation = Activation::gelu_erf;
  c.tied = true, c.head_bias = true, c.gated = true;
  return c;
}();
constexpr Config mixed = [] {
  Config c = plain;
  c.layers = 4, c.dense_first = 1, c.moe_every = 2, c.positions = Positions::rotary, c.head_dim = 4;
  return c;
}();

constexpr Config encoder = [] {
  Config c = plain;
  c.heads = 3, c.kv_heads = 1, c.head_dim = 4;
  c.mask = Mask::full, c.residual = Residual::post_norm, c.norm = Norm::rms;
  c.positions = Positions::rotary, c.activation = Activation::tanh, c.attention_bias = true;
  return c;
}();
constexpr Config norm_free = [] {
  Config c = plain;
  c.mask = Mask::full, c.residual = Residual::no_norm, c.layers = 3, c.dense_hidden = 7,
  c.mixture_at = {0, 2};
  return c;
}();

// Over three seeds.
template <class Model>
void examine(const Pass& pass, const Objective& objective = {}) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    const GradcheckReport report =
        gradcheck<Model>({.seed = seed, .pass = pass, .routing = {.objective = objective}, .per_tensor = 24});
    INFO("seed " << seed << ", worst " << report.worst << " in " << report.where);
    INFO(report.message);
    REQUIRE(report.ok);
    REQUIRE(report.worst <= 1e-6);
  }
}

const Shape shape{2, 5};
const Objective both{.balance = 0.3, .z = 0.2};  // large, so that an error in them shows
const Objective all{.dropout = 0.2, .balance = 0.3, .z = 0.2};
const Key key{42};

// A router that goes on jittering once it had a key, as it would if its tape were not reset.
struct Remembers : TopKRouter<3, 2> {
  template <int D, class T>
  struct For : TopKRouter<3, 2>::For<D, T> {
    using Inner = TopKRouter<3, 2>::For<D, T>;
    struct Tape : Inner::Tape {
      bool keyed = false;
    };
    void forward(In<D, T> x, RoutingPlan<T>& plan, Tape& tape, const Pass& pass) const {
      Inner::forward(x, plan, tape, pass);
      tape.keyed = tape.keyed || pass.key.has_value();
      if (tape.keyed)
        for (T& g : plan.gate) g *= T(0.5);
    }
  };
};

}  // namespace

TEST_CASE(
    "gradients of a makeMoE-like model are its differences, with and without noise, dropout and capacity") {
  using Model = GPT<makemoe, NoisyTopKRouter<4, 2, NoisyTopK{.bias = true}>, double>;
  examine<Model>({.shape = shape});
  examine<Model>({.shape = shape, .key = key}, all);
  examine<Model>({.shape = shape, .options = {.attention_scale = 0.4, .capacity_factor = 1}, .key = key},
                 all);
}

TEST_CASE(
    "gradients of a model with grouped heads, rotary positions, RMSNorm, gated experts and a tied head are "
    "its differences") {
  using Model = GPT<modern, TopKRouter<5, 2>, double>;
  examine<Model>({.shape = shape}, both);
  examine<Model>({.shape = shape,
                  .options = {.norm_epsilon = 0.1, .rotary_base = 50, .capacity_factor = 0.7},
                  .key = key},
                 all);
}

TEST_CASE(
    "gradients of a model with norms and limits of queries and keys and scaled sums are its differences") {
  constexpr Config c = [] {
    Config config = modern;
    config.head_dim = 4, config.rotary_dim = 2, config.query_key_norm = QueryKeyNorm::full;
    config.tied = false, config.head_bias = true;
    return config;
  }();
  examine<GPT<c, TopKRouter<5, 2>, double>>(
      {.shape = shape,
       .options = {.qkv_clip = 0.9, .embedding_scale = 3, .residual_scale = 0.4, .logit_scale = 0.5},
       .key = key},
      all);
}

TEST_CASE(
    "gradients of a dense model with learned positions, shared keys, wide heads and a tied head with bias "
    "are "
    "its differences") {
  examine<GPT<wide_heads, Dense, double>>({.shape = shape});
  examine<GPT<wide_heads, Dense, double>>({.shape = shape, .key = key}, all);
}

TEST_CASE("gradients of every loss of the routers are their differences, also where layers share one loss") {
  constexpr Config c = [] {  // two mixtures and a dense layer before them
    Config config = plain;
    config.layers = 3, config.dense_first = 1;
    return config;
  }();
  Objective o{.balance = 0.5,
              .balance_rule = BalanceRule::huggingface,
              .z = 0.3,
              .importance = 0.7,
              .load = 0.6,
              .variance = 5,
              .count = 0.05};
  examine<GPT<c, NoisyTopKRouter<5, 2>, double>>({.shape = shape, .key = key}, o);
  o.balance_rule = BalanceRule::megablocks;
  examine<GPT<c, TopKRouter<5, 2>, double>>({.shape = shape}, o);
  o = {.balance = 0.5,
       .balance_rule = {.choices = BalanceRule::Choices::first,
                        .group = Group::sequence,
                        .layers = BalanceRule::Layers::pooled}};
  examine<GPT<c, TopKRouter<5, 2>, double>>({.shape = shape, .options = {.capacity_factor = 0.7}}, o);
}

TEST_CASE("gradients of a model of dense and mixture layers with probability gates are its differences") {
  using Model = GPT<mixed, TopKRouter<3, 1>, double>;
  static_assert(Model::Trunk::Blocks::as == 3 && Model::Trunk::Blocks::bs == 1);
  examine<Model>({.shape = shape, .key = key}, all);
}

TEST_CASE("gradients of a post-norm encoder are its differences, also with a router that looks both ways") {
  examine<GPT<encoder, TopKRouter<4, 2>, double>>({.shape = shape, .key = key}, all);
  examine<GPT<encoder, ExpertChoiceRouter<4, 2>, double>>({.shape = shape, .key = key}, all);
}

TEST_CASE(
    "gradients of a post-norm encoder whose experts are linear, all at work and projected together, are its "
    "differences") {
  using AllOfFour = TopKRouter<4, 4, TopK{.gates = Gates::probability}>;
  examine<GPT<encoder, WithSharedProjection<AllOfFour, 7, Activation::relu>, double>>(
      {.shape = shape, .key = key}, all);
}

TEST_CASE(
    "gradients of an encoder without norms whose mixtures stand where a predicate says are its differences") {
  using Model = GPT<norm_free, TopKRouter<3, 2>, double>;
  static_assert(Model::Trunk::Blocks::as == 1 && Model::Trunk::Blocks::bs == 2);
  examine<Model>({.shape = shape, .key = key}, all);
}

TEST_CASE("gradcheck rejects a model whose workspace remembers that an earlier batch had a key") {
  const GradcheckReport report = gradcheck<GPT<plain, Remembers, double>>({.pass = {.shape = shape}});
  CAPTURE(report.message);
  CHECK(contains(report.message, "a workspace that was used before changes the gradient"));
}
