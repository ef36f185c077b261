#include <moegpt/routing/hash_router.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/rules.hpp"

using namespace moegpt;

TEST_CASE("the gradients of a hash router are zero, and differences agree, for K = 1, 2, 3 and E = 5, 6, 8") {
  const int ids[10] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3};
  GradcheckOptions options;
  options.routing.ids = ids;
  SECTION("1") { gradcheck_three_seeds<HashRouter<5, 1>::For<6, double>>(options); }
  SECTION("2") { gradcheck_three_seeds<HashRouter<6, 2>::For<6, double>>(options); }
  SECTION("3") { gradcheck_three_seeds<HashRouter<8, 3>::For<6, double>>(options); }
  SECTION("in a mixture") {
    gradcheck_three_seeds<MoELayer<HashRouter<5, 2>, Expert<6, 7, Activation::gelu, double>>>(options);
  }
}

TEST_CASE("hash routing passes check_router") {
  check_rule<HashRouter<8, 3>>();
  check_equal_experts<HashRouter<5, 2>>();
}

TEST_CASE("a hash router reads ids only: the same id has the same experts, whatever x is") {
  const Pass pass{.shape = {1, 62}};
  const RandomRoute<HashRouter<8, 2>> one(pass, 1), two(pass, 2);
  for (Index n = 0; n < 62; ++n) CHECK(one.gates(n) == two.gates(n));
  for (Index n = 0; n < 31; ++n) CHECK(one.gates(n) == one.gates(n + 31));  // ids repeat
}

TEST_CASE("each of a token's K different experts has gate 1/K, and over many ids the load is balanced") {
  constexpr int E = 8, K = 3, words = 8000;
  Buffer<int> ids(words);
  for (int n = 0; n < words; ++n) ids[n] = n;
  HashRouter<E, K>::For<4> router;
  HashRouter<E, K>::For<4>::Tape tape;
  RoutingPlan<float> plan;
  const Tokens<4, float> x(words);
  router.forward(x, plan, tape, RoutedPass({.shape = {1, words}}, {.ids = ids.data()}));
  CHECK(plan.slot_count() == words * K);
  for (Index n = 0; n < words; ++n) {
    const int* c = tape.chosen.data() + n * K;
    REQUIRE((c[0] != c[1] && c[1] != c[2] && c[0] != c[2]));
    for (int j = 0; j < K; ++j) REQUIRE(tape.score[n][c[j]] == 1.0f / K);
  }
  for (int e = 0; e < E; ++e)
    CHECK(std::abs(static_cast<double>(plan.load(e)) - 3000) < 4 * std::sqrt(3000.0));
}

TEST_CASE(
    "the hash is fixed: a model file does not hold it, so these ids have these experts in every version") {
  RandomRoute<HashRouter<8, 2>> route({.shape = {1, 8}});
  for (int n = 0; n < 8; ++n) route.ids[n] = n;
  route.forward({.shape = {1, 8}});
  const int expected[16] = {7, 4, 5, 3, 2, 7, 6, 4, 0, 6, 3, 4, 0, 3, 4, 3};
  CHECK(std::equal(expected, expected + 16, route.tape.chosen.begin()));
}

TEST_CASE("without ids a hash router throws and names the missing ids") {
  HashRouter<5, 2>::For<4> router;
  HashRouter<5, 2>::For<4>::Tape tape;
  RoutingPlan<float> plan;
  const Tokens<4, float> x(3);
  const std::string said = refusal([&] { router.forward(x, plan, tape, {.shape = {1, 3}}); });
  CHECK(said.find("HashRouter") != std::string::npos);
  CHECK(said.find("the routing context has no ids") != std::string::npos);
}

TEST_CASE("a hash router of 2^16 experts needs no stack memory for them") {
  check_small_stack<HashRouter<1 << 16>>();
}
