#include <moegpt/layers/norms.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

TEST_CASE("the gradients of LayerNorm and RMSNorm agree with differences") {
  GradcheckOptions options;
  options.pass.options.norm_epsilon = 1e-5;
  SECTION("LayerNorm, one piece of features") { gradcheck_three_seeds<LayerNorm<6, double>>(options); }
  SECTION("RMSNorm, one piece of features") { gradcheck_three_seeds<RMSNorm<6, double>>(options); }
  SECTION("LayerNorm, wider than a vector and a piece") {
    gradcheck_three_seeds<LayerNorm<37, double>>(options);
  }
  SECTION("RMSNorm, wider than a vector and a piece") { gradcheck_three_seeds<RMSNorm<37, double>>(options); }
}

TEST_CASE("a frozen gamma or beta changes no other gradient of a LayerNorm") {
  using L = LayerNorm<6, double>;
  L layer;
  draw_weights(layer, 1);
  const auto x = random_tokens<6, double>(7, 2), dy = random_tokens<6, double>(7, 3);
  const Pass pass{.shape = {1, 7}};
  L::Tape tape;
  Tokens<6, double> y(7), dx(7), dx_frozen(7);
  layer.forward(x, y, tape, pass);
  L grad, frozen, no_dx;
  frozen.weight.release();
  layer.backward(x, tape, dy, dx, grad, pass);
  layer.backward(x, tape, dy, dx_frozen, frozen, pass);
  CHECK(same_bits(dx, dx_frozen));
  CHECK(same_bits(grad.bias.data(), frozen.bias.data(), 6));
  CHECK(frozen.weight.empty());
  layer.backward(x, tape, dy, {}, no_dx, pass);
  CHECK(same_weights(grad, no_dx));
  frozen.bias.release();
  layer.backward(x, tape, dy, dx_frozen, frozen, pass);
  CHECK(same_bits(dx, dx_frozen));
}

TEST_CASE("a frozen gamma does not change the dx of an RMSNorm, and dx need not be required") {
  using L = RMSNorm<6, double>;
  L layer;
  draw_weights(layer, 1);
  const auto x = random_tokens<6, double>(7, 2), dy = random_tokens<6, double>(7, 3);
  const Pass pass{.shape = {1, 7}};
  L::Tape tape;
  Tokens<6, double> y(7), dx(7), dx_frozen(7);
  layer.forward(x, y, tape, pass);
  L grad, frozen, no_dx;
  frozen.weight.release();
  layer.backward(x, tape, dy, dx, grad, pass);
  layer.backward(x, tape, dy, dx_frozen, frozen, pass);
  CHECK(same_bits(dx, dx_frozen));
  layer.backward(x, tape, dy, {}, no_dx, pass);
  CHECK(same_weights(grad, no_dx));
}

TEST_CASE("epsilon is taken from the model's options") {
  RMSNorm<2> layer;
  layer.weight.eigen().setOnes();
  Tokens<2, float> x(1), y(1);
  x.eigen().setConstant(3);
  RMSNorm<2>::Tape tape;
  layer.forward(x, y, tape, {.options = {.norm_epsilon = 16}});
  CHECK(y[0][0] == Approx(3.0 / 5));  // sqrt(9 + 16)
}

TEST_CASE("NoNorm is the identity, forward and backward, and has no weights") {
  gradcheck_three_seeds<NoNorm<6, double>>();
  NoNorm<6, double> none;
  CHECK(count_weights(none) == 0);
  const auto x = random_tokens<6, double>(7, 2);
  Tokens<6, double> y(7);
  NoNorm<6, double>::Tape tape;
  none.forward(x, y, tape, {.shape = {1, 7}});
  CHECK(same_bits(x, y));
  none.backward(x, tape, x, {}, none, {.shape = {1, 7}});  // dx is not required
}
