#include <moegpt/routing/all_experts.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/rules.hpp"

using namespace moegpt;

TEST_CASE("the gradients of the dense MoE's router agree with differences for E = 1, 5, 8") {
  SECTION("1") { gradcheck_three_seeds<AllExperts<1>::For<6, double>>(); }
  SECTION("5") { gradcheck_three_seeds<AllExperts<5>::For<6, double>>(); }
  SECTION("8, bias, idle experts") {
    const bool four[8] = {true, false, true, true, false, false, true, false};
    GradcheckOptions options;
    options.routing.allowed = four;
    gradcheck_three_seeds<AllExperts<8, true>::For<6, double>>(options);
  }
  SECTION("8, capacity of one") {
    GradcheckOptions options;
    options.pass.options.capacity_factor = 0.1;
    gradcheck_three_seeds<AllExperts<8>::For<6, double>>(options);
  }
}

TEST_CASE("dense MoE passes check_router") {
  check_rule<AllExperts<6>>();
  check_rule<AllExperts<70>>();
  check_equal_experts<AllExperts<5>>();
}

TEST_CASE("dense MoE is top-k with K = E and probability gates") {
  const Pass pass{.shape = {1, 50}};
  const RandomRoute<AllExperts<6>> all(pass);
  const RandomRoute<TopKRouter<6, 6, TopK{.gates = Gates::probability}>> top(pass);
  for (Index n = 0; n < 50; ++n) CHECK(all.gates(n) == top.gates(n));
  for (int e = 0; e < 6; ++e) CHECK(all.plan.load(e) == 50);
}

TEST_CASE("dense MoE is the sum over experts of probability times output") {
  using Ffn = Expert<6, 9, Activation::gelu, double>;
  using Layer = MoELayer<AllExperts<4>, Ffn>;
  Layer layer;
  draw_weights(layer, 1);
  const auto x = random_tokens<6, double>(7, 2);
  Tokens<6, double> y(7), answer(7), expected(7);
  const Pass pass{.shape = {1, 7}};
  Layer::Tape tape;
  Layer::Scratch scratch;
  layer.forward(x, y, tape, scratch, pass);
  for (int e = 0; e < 4; ++e) {
    FeedForward<Ffn> dense;
    FeedForward<Ffn>::Tape dense_tape;
    FeedForward<Ffn>::Scratch dense_scratch;
    dense.network = layer.experts[static_cast<std::size_t>(e)];
    dense.forward(x, answer, dense_tape, dense_scratch, pass);
    for (Index n = 0; n < 7; ++n)
      for (int i = 0; i < 6; ++i) expected[n][i] += tape.router.score[n][e] * answer[n][i];
  }
  CHECK(distance(y, expected) < 1e-14);
}
