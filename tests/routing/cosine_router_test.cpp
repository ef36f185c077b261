#include <moegpt/routing/cosine_router.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/rules.hpp"

using namespace moegpt;

namespace {

template <int E, int Width>
using Logits = typename CosineLogits<Width>::template For<6, E, double>;
template <class Recipe>
using Double = typename Recipe::template For<6, double>;

}  // namespace

TEST_CASE("the gradients of cosine logits agree with differences") {
  gradcheck_three_seeds<Logits<5, 4>>();
  gradcheck_three_seeds<Logits<3, 9>>();
}

TEST_CASE("the gradients of a cosine router agree with differences for K = 1, 2, 3 and E = 5, 6, 8") {
  SECTION("1") { gradcheck_three_seeds<Double<CosineRouter<5, 1, 4>>>(); }
  SECTION("2") { gradcheck_three_seeds<Double<CosineRouter<6, 2, 4>>>(); }
  SECTION("2, probability") { gradcheck_three_seeds<Double<CosineRouter<6, 2, 4, Gates::probability>>>(); }
  SECTION("3, padding, capacity, idle experts") {
    const Index lengths[2] = {5, 2};
    const bool four[8] = {true, false, true, true, false, false, true, false};
    GradcheckOptions options;
    options.pass.lengths = lengths;
    options.routing.allowed = four;
    options.pass.options.capacity_factor = 0.6;
    gradcheck_three_seeds<Double<CosineRouter<8, 3, 4>>>(options);
  }
}

TEST_CASE("cosine routing passes check_router") {
  check_rule<CosineRouter<8, 3, 16>>();
  check_equal_experts<CosineRouter<5, 2, 4>>();
}

TEST_CASE("cosine logits are the scale times cosines, independent of norms") {
  Logits<5, 4> layer;
  draw_weights(layer, 1);
  layer.projection.bias.memory().fill(0);
  layer.log_scale[0] = std::log(2.0);
  auto x = random_tokens<6, double>(3, 2);
  Logits<5, 4>::Tape tape;
  Tokens<5, double> z(3), longer(3);
  const Pass pass{.shape = {1, 3}};
  layer.forward(x, z, tape, pass);
  const Eigen::MatrixXd p = layer.projection.weight.eigen() * x.eigen();
  for (Index n = 0; n < 3; ++n)
    for (int e = 0; e < 5; ++e) {
      const Eigen::VectorXd v = layer.experts.eigen().row(e);
      CHECK(z[n][e] == Approx(2 * p.col(n).dot(v) / p.col(n).norm() / v.norm()).epsilon(1e-13));
    }
  for (auto& v : x.memory()) v *= 100;
  for (auto& v : layer.experts) v *= 0.01;
  layer.forward(x, longer, tape, pass);
  CHECK(distance(z, longer) < 1e-13);
}

TEST_CASE("the scale is at most 100 and has no gradient there, and zero vectors have none") {
  Logits<5, 4> layer, grad;
  draw_weights(layer, 3);
  layer.log_scale[0] = 7;
  const auto dz = random_tokens<5, double>(3, 5);
  Tokens<6, double> x(3), dx(3);
  x.memory() = random_numbers<double>(18, 4);
  std::fill_n(x[1], 6, 0.0);
  layer.projection.bias.memory().fill(0);
  std::fill_n(layer.experts.data(), 4, 0.0);
  Logits<5, 4>::Tape tape;
  Logits<5, 4>::Scratch scratch;
  Tokens<5, double> z(3);
  const Pass pass{.shape = {1, 3}};
  layer.forward(x, z, tape, pass);
  layer.backward(x, tape, dz, dx, grad, scratch, pass);
  for (int e = 0; e < 5; ++e) CHECK((std::abs(z[0][e]) <= 100 && z[1][e] == 0));
  CHECK(z[0][0] == 0);
  CHECK(grad.log_scale[0] == 0);
  for (int i = 0; i < 4; ++i) CHECK(grad.experts[i] == 0);
  for (int i = 0; i < 6; ++i) CHECK(dx[1][i] == 0);
  CHECK(first_not_finite(grad).empty());
}
