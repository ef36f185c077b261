#pragma once
// What every token-choice rule must respect, whatever it decides.
#include "numbers.hpp"
#include "routed_pass.hpp"
#include "small_stack.hpp"

#include <moegpt/moe/feed_forward.hpp>
#include <moegpt/moe/moe_layer.hpp>

// A route of random tokens by a router with random weights.
template <class Recipe, class T = double, int D = 6>
struct RandomRoute {
  static constexpr int E = Recipe::experts, K = Recipe::active;
  using R = typename Recipe::template For<D, T>;
  R router;
  moegpt::Tokens<D, T> x;
  moegpt::Buffer<int> ids;
  moegpt::RoutingPlan<T> plan;
  typename R::Tape tape;

  explicit RandomRoute(moegpt::Pass pass, std::uint64_t seed = 1)
      : x(random_tokens<D, T>(pass.tokens(), seed)), ids(pass.tokens()) {
    plan.drop = moegpt::drop_rule_of<Recipe>();
    draw_weights(router, seed + 1);
    for (moegpt::Index n = 0; n < pass.tokens(); ++n) ids[n] = static_cast<int>(7 * n + 3) % 31;
    forward(pass);
  }
  void forward(const moegpt::Pass& given) {
    RoutedPass pass(given, routing_of(given));
    pass.context.ids = ids.data();
    router.forward(x, plan, tape, pass);
  }
  // Gates of a token by expert; 0: not sent there.
  std::array<T, E> gates(moegpt::Index n) const {
    std::array<T, E> gate{};
    for (int j = 0; j < K; ++j)
      if (const moegpt::Index s = plan.slot[n * K + j]; s >= 0)
        for (int e = 0; e < E; ++e)
          if (s >= plan.offset[e] && s < plan.offset[e + 1]) gate[static_cast<std::size_t>(e)] = plan.weight[s];
    return gate;
  }
  int experts_of(moegpt::Index n) const {
    int count = 0;
    for (int j = 0; j < K; ++j) count += plan.slot[n * K + j] >= 0;
    return count;
  }
};

// Padding gets no expert, and other tokens' gates do not notice it.
template <class Recipe>
void check_padding(std::optional<moegpt::Key> key = {}) {
  const moegpt::Index lengths[2] = {7, 3};
  const moegpt::Pass all{.shape = {2, 7}, .key = key}, padded{.shape = {2, 7}, .key = key, .lengths = lengths};
  const RandomRoute<Recipe> a(all), b(padded);
  for (moegpt::Index n = 0; n < 14; ++n) {
    if (padded.is_padding(n))
      CHECK(b.experts_of(n) == 0);
    else
      CHECK(b.gates(n) == a.gates(n));
  }
}

// Experts that are not allowed get nobody, and if fewer are allowed than a token may have, it makes do with them.
template <class Recipe>
void check_allowed() {
  constexpr int E = Recipe::experts;
  bool even[E] = {}, last[E] = {};
  for (int e = 0; e < E; e += 2) even[e] = true;
  last[E - 1] = true;
  for (const bool* allowed : {even, last}) {
    const RandomRoute<Recipe> route(RoutedPass({.shape = {1, 20}}, {.allowed = allowed}));
    CHECK(route.plan.slot_count() > 0);
    for (int e = 0; e < E; ++e)
      if (!allowed[e]) {
        CHECK(route.plan.wanted[e] == 0);
        for (moegpt::Index n = 0; n < 20; ++n) CHECK(route.tape.score[n][e] == 0);
      }
    for (const double gate : route.plan.weight) CHECK(std::isfinite(gate));
  }
}

// The bits of a route do not depend on threads, nor on which other tokens share the call.
template <class Recipe>
void check_bits(std::optional<moegpt::Key> key = {}) {
  const moegpt::Pass pass{.shape = {1, 150}, .key = key};
  const RandomRoute<Recipe, float> one(pass);
  for (const int threads : {2, 8}) {
    moegpt::Pass many = pass;
    many.exec.threads = threads;
    const RandomRoute<Recipe, float> other(many);
    CHECK(same_bits(one.tape.score, other.tape.score));
    CHECK(same_bits(one.plan.token.data(), other.plan.token.data(), one.plan.slot_count()));
    CHECK(same_bits(one.plan.weight.data(), other.plan.weight.data(), one.plan.slot_count()));
  }
  for (const moegpt::Index n : {0, 63, 64, 149}) {
    typename RandomRoute<Recipe, float>::R::Tape tape;
    moegpt::RoutingPlan<float> plan;
    plan.drop = one.plan.drop;
    const RoutedPass single({.key = key, .first_token = n}, {.ids = one.ids.data() + n});
    one.router.forward(one.x.rows({n, 1}), plan, tape, single);
    CHECK(same_bits(tape.score[0], one.tape.score[n], Recipe::experts));
    for (int j = 0; j < Recipe::active; ++j) {
      const moegpt::Index alone = plan.slot[j], together = one.plan.slot[n * Recipe::active + j];
      REQUIRE((alone >= 0) == (together >= 0));
      if (alone >= 0) CHECK(plan.weight[alone] == one.plan.weight[together]);
    }
  }
}

template <class Recipe>
void check_rule(std::optional<moegpt::Key> key = {}) {
  check_padding<Recipe>(key);
  check_allowed<Recipe>();
  check_bits<Recipe>(key);
}

// If all experts are one and the gates of a token sum to 1, the mixture is that expert.
template <class Recipe>
void check_equal_experts() {
  using Ffn = moegpt::Expert<6, 9, moegpt::Activation::gelu, double>;
  moegpt::MoELayer<Recipe, Ffn> layer;
  moegpt::FeedForward<Ffn> dense;
  draw_weights(layer, 3);
  for (auto& expert : layer.experts) expert = layer.experts[0];
  dense.network = layer.experts[0];
  const auto x = random_tokens<6, double>(9, 4);
  moegpt::Tokens<6, double> y(9), expected(9);
  const moegpt::Buffer<int> ids(9);
  const RoutedPass pass({.shape = {1, 9}}, {.ids = ids.data()});
  typename moegpt::MoELayer<Recipe, Ffn>::Tape tape;
  typename moegpt::MoELayer<Recipe, Ffn>::Scratch scratch;
  typename moegpt::FeedForward<Ffn>::Tape dense_tape;
  typename moegpt::FeedForward<Ffn>::Scratch dense_scratch;
  layer.forward(x, y, tape, scratch, pass);
  dense.forward(x, expected, dense_tape, dense_scratch, pass);
  CHECK(distance(y, expected) < 1e-13);
}

// A router of many experts, or for wide tokens, puts no row of theirs on the stack: this one is of 512 KiB, and a row of
// 2^18 numbers takes twice that.
template <class Recipe, int D = 2>
void check_small_stack(moegpt::Pass pass = {}) {
  pass.shape = {1, 2};
  bool done = false;
  const bool ran = on_small_stack(256 << 10, [&] {
    const RandomRoute<Recipe, float, D> route(pass);
    typename RandomRoute<Recipe, float, D>::R grad;
    typename RandomRoute<Recipe, float, D>::R::Scratch scratch;
    moegpt::Buffer<float> d_weight(route.plan.slot_count());
    moegpt::Tokens<D, float> dx(2);
    route.router.backward(route.x, route.plan, route.tape, {.d_weight = d_weight.data()}, moegpt::Sum(dx), grad, scratch, pass);
    done = route.plan.slot_count() > 0;
  });
  CHECK(ran);
  CHECK(done);
}
