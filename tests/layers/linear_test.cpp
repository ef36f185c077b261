#include <moegpt/layers/linear.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

TEST_CASE("the gradients of Linear agree with differences, with a bias and without") {
  gradcheck_three_seeds<Linear<6, 5, double>>();
  gradcheck_three_seeds<Linear<6, 5, double, false>>();
}

TEST_CASE("Linear is W x + b, W as PyTorch stores it") {
  Linear<2, 3> layer;
  layer.weight.eigen() << 1, 2, 3, 4, 5, 6;
  layer.bias.eigen() << 10, 20, 30;
  Tokens<2, float> x(2);
  x.eigen() << 1, 0, 1, -1;  // columns are tokens: (1, 1) and (0, -1)
  Tokens<3, float> y(2);
  layer.forward(x, y, {.shape = {1, 2}});
  CHECK(y.eigen().col(0) == Eigen::Vector3f(13, 27, 41));
  CHECK(y.eigen().col(1) == Eigen::Vector3f(8, 16, 24));
}

TEMPLATE_TEST_CASE("a token's bits are the same alone and among others (invariant 6)", "", float, double) {
  Linear<37, 41, TestType> layer;
  draw_weights(layer, 1);
  const auto x = random_tokens<37, TestType>(29, 2);
  Tokens<41, TestType> all(29), alone(29);
  layer.forward(x, all, {.shape = {1, 29}, .exec = {3}});
  for (Index n = 0; n < 29; ++n) layer.forward(x.rows({n, 1}), alone.rows({n, 1}), {});
  CHECK(same_bits(all, alone));
}

TEST_CASE("gradients of a Linear that are not required are skipped, and the others keep their bits") {
  using L = Linear<6, 5, double>;
  L layer;
  draw_weights(layer, 3);
  const auto x = random_tokens<6, double>(7, 4);
  const auto dy = random_tokens<5, double>(7, 5);
  const Pass pass{.shape = {1, 7}};
  L grad, frozen, no_dx;
  frozen.weight.release();
  frozen.bias.release();
  Tokens<6, double> dx(7), dx_frozen(7);
  layer.backward(x, dy, dx, grad, pass);
  layer.backward(x, dy, dx_frozen, frozen, pass);
  CHECK(same_bits(dx, dx_frozen));
  CHECK(frozen.weight.empty());
  layer.backward(x, dy, {}, no_dx, pass);
  CHECK(same_weights(grad, no_dx));
}

TEMPLATE_TEST_CASE("the parts of a weight gradient are the whole", "", (Linear<3, 600, double>),
                   (Linear<3, 256, double>), (Linear<3, 300, double, false>)) {
  TestType layer, whole, parts;
  const auto x = random_tokens<3, double>(7, 9);
  const auto dy = random_tokens<TestType::dim_out, double>(7, 10);
  const Index numbers[7] = {0, 1, 2, 3, 4, 5, 6};
  layer.backward_weights(x, dy, whole, {.shape = {1, 7}});
  for (Index part = 0; part < TestType::weight_parts; ++part)
    layer.backward_weights(part, Gathered<3, double>{x, numbers, 7}, dy, parts);
  CHECK(same_weights(whole, parts));
}

TEST_CASE("backward adds to a Sum what it stores in an Out") {
  STATIC_REQUIRE_FALSE(std::is_convertible_v<Sum<6, double>, Out<6, double>>);  // no implicit conversion
  STATIC_REQUIRE_FALSE(std::is_convertible_v<Out<6, double>, Sum<6, double>>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<Tokens<6, double>&, Sum<6, double>>);
  Linear<6, 5, double> layer, grad;
  draw_weights(layer, 6);
  const auto x = random_tokens<6, double>(7, 7);
  const auto dy = random_tokens<5, double>(7, 8);
  Tokens<6, double> dx(7), sum(7);
  sum.memory().fill(1);
  layer.backward(x, dy, dx, grad, {});
  layer.backward(x, dy, Sum(sum), grad, {});
  for (Index i = 0; i < 42; ++i) CHECK(sum[0][i] == Approx(1 + dx[0][i]).epsilon(1e-14));
}
