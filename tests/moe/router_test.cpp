#include <moegpt/moe/expert_choice_router.hpp>
#include <moegpt/moe/router.hpp>
#include <moegpt/moe/top_k_router.hpp>

#include "support/catch.hpp"

using namespace moegpt;

namespace {
// A recipe whose router cannot go back.
struct OneWay {
  static constexpr int experts = 3, active = 1;
  static constexpr bool causal = true;
  template <int D, class T>
  struct For : TopKRouter<3, 1>::For<D, T> {
    static constexpr auto fields() { return Fields<>{}; }
    void backward() const {}
  };
};
}  // namespace

TEST_CASE("the concept takes recipes of routers, and refuses one without backward") {
  STATIC_REQUIRE(Router<TopKRouter<5, 3>>);
  STATIC_REQUIRE(Router<ExpertChoiceRouter<5>>);
  STATIC_REQUIRE_FALSE(Router<OneWay>);
  STATIC_REQUIRE_FALSE(Router<TopKRouter<5, 3>::For<6, float>>);   // a router is not a recipe
}

TEST_CASE("a router that looks ahead says so, unless it is called by the name that allows it") {
  STATIC_REQUIRE(TopKRouter<5, 3>::causal);
  STATIC_REQUIRE_FALSE(ExpertChoiceRouter<5>::causal);
  STATIC_REQUIRE(AllowNonCausal<ExpertChoiceRouter<5>>::causal);
}
