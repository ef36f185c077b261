#pragma once
// A random route of a router, and checks that check_router does not make: equal experts, a small stack.
#include "numbers.hpp"
#include "routed_pass.hpp"
#include "small_stack.hpp"

#include <moegpt/moe/feed_forward.hpp>
#include <moegpt/moe/moe_layer.hpp>
#include <moegpt/testing/check_router.hpp>

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
      if (const moegpt::Index s = plan.slot[n * K + j]; s != moegpt::no_slot)
        for (int e = 0; e < E; ++e)
          if (s >= plan.offset[e] && s < plan.offset[e + 1]) gate[static_cast<std::size_t>(e)] = plan.gate[s];
    return gate;
  }
  int experts_of(moegpt::Index n) const {
    int count = 0;
    for (int j = 0; j < K; ++j) count += plan.slot[n * K + j] != moegpt::no_slot;
    return count;
  }
};

template <class Recipe>
void check_rule(const moegpt::RouterCheckOptions& options = {}) {
  const moegpt::RouterReport report = moegpt::check_router<Recipe>(options);
  INFO(report.message);
  CHECK(report.ok);
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

// A router of many experts, or for wide tokens, puts no row of theirs on the stack: this one is of 512 KiB,
// and a row of 2^18 numbers takes twice that.
template <class Recipe, int D = 2>
void check_small_stack(moegpt::Pass pass = {}) {
  pass.shape = {1, 2};
  bool done = false;
  const bool ran = on_small_stack(256 << 10, [&] {
    const RandomRoute<Recipe, float, D> route(pass);
    typename RandomRoute<Recipe, float, D>::R grad;
    typename RandomRoute<Recipe, float, D>::R::Scratch scratch;
    moegpt::Buffer<float> d_gate(route.plan.slot_count());
    moegpt::Tokens<D, float> dx(2);
    route.router.backward(route.x, route.plan, route.tape, {.d_gate = d_gate.data()}, moegpt::Sum(dx), grad,
                          scratch, pass);
    done = route.plan.slot_count() > 0;
  });
  CHECK(ran);
  CHECK(done);
}
