#include <moegpt/moe/shared_experts.hpp>
#include <moegpt/moe/soft_moe.hpp>
#include <moegpt/moe/with_experts.hpp>

#include <moegpt/layers/linear_expert.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"

using namespace moegpt;

namespace {

using TopK42 = TopKRouter<4, 2>;
using OfConfig = Expert<6, 5, Activation::gelu, double>;

// Without use for the width of the config.
template <int D, int, class T>
using Linear1 = LinearExpert<D, D, T>;

// Twice as wide as the config says, and named.
template <int D, int Dff, class T>
struct Twice : Expert<D, 2 * Dff, Activation::tanh, T> {
  static std::string text() { return "Twice"; }
};

template <class Recipe>
using Layer6 = MixtureOf<Recipe, OfConfig>;

}  // namespace

TEST_CASE("experts of one's own take the width and scalar of the model's, around a router or a mixture") {
  using Own = Twice<6, 5, double>;
  STATIC_REQUIRE(std::is_same_v<Layer6<WithExperts<TopK42, Twice>>, MoELayer<TopK42, Own>>);
  STATIC_REQUIRE(
      std::is_same_v<Layer6<WithExperts<TopK42, Linear1>>, MoELayer<TopK42, LinearExpert<6, 6, double>>>);
  STATIC_REQUIRE(std::is_same_v<Layer6<WithExperts<SharedExperts<TopK42>, Twice>>,
                                SharedMixture<MoELayer<TopK42, Own>, Own, 2>>);
  STATIC_REQUIRE(std::is_same_v<Layer6<SharedExperts<WithExperts<TopK42, Twice>>>,
                                SharedMixture<MoELayer<TopK42, Own>, OfConfig, 2>>);
  STATIC_REQUIRE(std::is_same_v<Layer6<WithExperts<Dense, Twice>>, FeedForward<Own>>);
  STATIC_REQUIRE(WithExperts<SharedExperts<TopK42>, Twice>::active == 2);
}

TEST_CASE("what allows a router that looks ahead stands around its experts of one's own") {
  using Soft = SoftMoE<3, 2>;
  STATIC_REQUIRE_FALSE(Layer6<WithExperts<Soft, Twice>>::causal);
  STATIC_REQUIRE(Layer6<AllowNonCausal<WithExperts<Soft, Twice>>>::causal);
}

TEST_CASE("a recipe with experts of one's own has a text if they have") {
  CHECK(router_text<WithExperts<TopK42, Twice>>() == "WithExperts<" + TopK42::text() + ", Twice>");
  CHECK(router_text<WithExperts<Dense, Twice>>() == "WithExperts<Dense, Twice>");
  CHECK(router_text<WithExperts<TopK42, Linear1>>() == "your router");
}

TEST_CASE("the gradients of mixtures with experts of one's own agree with differences") {
  gradcheck_three_seeds<Layer6<WithExperts<SharedExperts<TopK42, 1, Shared::gated>, Twice>>>();
  gradcheck_three_seeds<Layer6<WithExperts<Dense, Twice>>>();
}
