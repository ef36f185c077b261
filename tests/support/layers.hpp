#pragma once
// Any layer with tape and scratch, with random weights, run once; and invariants of all layers.
#include "numbers.hpp"
#include "routed_pass.hpp"

#include <moegpt/layers/layer.hpp>

template <class L>
L drawn(std::uint64_t seed, double spread = 0.5) {
  L layer;
  draw_weights(layer, seed, spread);
  return layer;
}

template <class L>
struct Ran {
  using T = typename L::Scalar;
  moegpt::Tokens<L::dim_out, T> y;
  moegpt::Tokens<L::dim_in, T> dx;
  typename L::Tape tape;
  typename L::Scratch scratch;
  L grad;
  Ran(const L& layer, moegpt::In<L::dim_in, T> x, const moegpt::Pass& pass)
      : y(pass.tokens()), dx(pass.tokens()) {
    y.memory().fill(99);
    layer.forward(x, y, tape, scratch, pass);
  }
  void back(const L& layer, moegpt::In<L::dim_in, T> x, moegpt::In<L::dim_out, T> dy,
            const moegpt::Pass& pass) {
    layer.backward(x, tape, dy, dx, grad, scratch, pass);
  }
};

// Invariant 5, for layers in float, with several pieces for each expert.
template <class L>
void threads_change_no_bit(moegpt::Shape shape = {3, 300}) {
  RoutedPass pass({.shape = shape, .dropout = 0.2, .key = moegpt::Key{19}},
                  {.objective = {.balance = 0.1, .z = 0.1}});
  const L layer = drawn<L>(16);
  const auto x = random_tokens<L::dim_in, float>(pass.tokens(), 17);
  const auto dy = random_tokens<L::dim_out, float>(pass.tokens(), 18);
  Ran<L> one(layer, x, pass);
  one.back(layer, x, dy, pass);
  for (const int threads : {2, 3, 8}) {
    pass.exec.threads = threads;
    Ran<L> many(layer, x, pass);
    many.back(layer, x, dy, pass);
    CHECK(same_bits(one.y, many.y));
    CHECK(same_bits(one.dx, many.dx));
    CHECK(same_weights(one.grad, many.grad));
  }
}

// Frozen weights: every weight of the layer in turn is not wanted, and neither dx nor any other gradient
// changes a bit.
template <class L>
void freezing_changes_no_other_gradient(const moegpt::Pass& pass) {
  const L layer = drawn<L>(21);
  const auto x = random_tokens<L::dim_in, double>(pass.tokens(), 22);
  const auto dy = random_tokens<L::dim_out, double>(pass.tokens(), 23);
  Ran<L> run(layer, x, pass);
  run.back(layer, x, dy, pass);
  int weights = 0;
  moegpt::for_each_weight([&](auto&) { ++weights; }, run.grad);
  for (int frozen = 0; frozen < weights; ++frozen) {
    L grad;
    int number = 0;
    moegpt::for_each_weight(
        [&](auto& w) {
          if (number++ == frozen) w.release();
        },
        grad);
    moegpt::Tokens<L::dim_in, double> dx(pass.tokens());
    layer.backward(x, run.tape, dy, dx, grad, run.scratch, pass);
    CAPTURE(frozen);
    CHECK(same_bits(dx, run.dx));
    number = 0;
    moegpt::for_each_weight(
        [&](const auto& g, const auto& expected) {
          CHECK(g.size() == (number == frozen ? 0 : expected.size()));
          if (number++ != frozen) CHECK(same_bits(g.data(), expected.data(), g.size()));
        },
        grad, run.grad);
  }
  L no_dx;
  layer.backward(x, run.tape, dy, {}, no_dx, run.scratch, pass);
  CHECK(same_weights(no_dx, run.grad));
}
