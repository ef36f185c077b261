#include <moegpt/routing/top_p_router.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/rules.hpp"

using namespace moegpt;

namespace {

using Most = std::ratio<7, 10>;
template <class Recipe>
using Double = typename Recipe::template For<6, double>;

}  // namespace

TEST_CASE("the gradients of a top-p router agree with differences for K = 1, 2, 3 and E = 5, 6, 8") {
  SECTION("K = 1") { gradcheck_three_seeds<Double<TopPRouter<5, 1, Most, Gates::probability>>>(); }
  SECTION("K = 2") { gradcheck_three_seeds<Double<TopPRouter<6, 2>>>(); }
  SECTION("K = 3") { gradcheck_three_seeds<Double<TopPRouter<8, 3, Most>>>(); }
  SECTION("K = 3, probability") {
    gradcheck_three_seeds<Double<TopPRouter<8, 3, Most, Gates::probability>>>();
  }
}

TEST_CASE(
    "the gradients of a top-p router agree with differences with padding, capacity and experts that are not "
    "allowed") {
  const Index lengths[2] = {5, 2};
  const bool four[8] = {true, false, true, true, false, false, true, false}, one[8] = {false, false, true};
  GradcheckOptions options;
  SECTION("padding") { options.pass.lengths = lengths; }
  SECTION("capacity of one") { options.pass.options.capacity_factor = 0.3; }
  SECTION("idle experts") { options.routing.allowed = four; }
  SECTION("one allowed") { options.routing.allowed = one; }
  gradcheck_three_seeds<Double<TopPRouter<8, 3, Most>>>(options);
}

TEST_CASE("top-p routing passes check_router") {
  check_rule<TopPRouter<8, 4, Most>>();
  check_equal_experts<TopPRouter<5, 3>>();
}

TEST_CASE("top-p with p = 1 is top-k, bit for bit") {
  const Pass pass{.shape = {1, 60}};
  const RandomRoute<TopPRouter<6, 3, std::ratio<1>>, float> nucleus(pass);
  const RandomRoute<TopKRouter<6, 3>, float> top(pass);
  CHECK(nucleus.plan.slot_count() == 180);
  for (Index n = 0; n < 60; ++n) CHECK(nucleus.gates(n) == top.gates(n));
}

TEST_CASE("a token has the fewest experts whose probabilities sum to p, or K, and tokens differ") {
  const Pass pass{.shape = {1, 200}};
  const RandomRoute<TopPRouter<8, 4, Most, Gates::probability>> route(pass);
  int seen[5] = {};
  for (Index n = 0; n < 200; ++n) {
    const auto gate = route.gates(n);
    const int count = route.experts_of(n);
    double total = 0, least = 1, largest_left_out = 0;
    for (int e = 0; e < 8; ++e) {
      total += gate[e];
      if (gate[e] > 0)
        least = std::min(least, gate[e]);
      else
        largest_left_out = std::max(largest_left_out, route.tape.score[n][e]);
    }
    CHECK((total >= 0.7 || count == 4));
    CHECK(total - least < 0.7);
    CHECK(least >= largest_left_out);
    ++seen[count];
  }
  for (int count = 1; count <= 4; ++count) CHECK(seen[count] > 0);
}

TEST_CASE("the text of a top-p router is the type one writes") {
  CHECK(TopPRouter<8, 4, std::ratio<6, 10>>::text() ==
        "TopPRouter<8, 4, std::ratio<3, 5>, Gates::renormalised>");
}
