#include <moegpt/routing/allowed_experts.hpp>
#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/moe/moe_layer.hpp>

#include "support/catch.hpp"
#include "support/layers.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

using Recipe = TopKRouter<5, 2>;
using L = MoELayer<Recipe, Expert<6, 5, Activation::gelu, double>>;

}  // namespace

TEST_CASE("only allowed experts receive tokens, and their gates still sum to one") {
  const auto layer = drawn<L>(1);
  const auto x = random_tokens<6, double>(20, 2);
  const AllowedExperts<Recipe> some{0, 2, 3};
  const Ran<L> run(layer, x, RoutedPass({.shape = {1, 20}}, {.allowed = some}));
  CHECK(run.tape.plan.load(1) + run.tape.plan.load(4) == 0);
  CHECK(run.tape.plan.slot_count() == 40);
  for (Index n = 0; n < 20; ++n) {
    const Index* slot = &run.tape.plan.slot[2 * n];
    CHECK(run.tape.plan.gate[slot[0]] + run.tape.plan.gate[slot[1]] == Approx(1).epsilon(1e-15));
  }
}

TEST_CASE("indices out of range, given twice or fewer than K are rejected by a message that names them") {
  const auto refused = [](std::initializer_list<int> numbers) {
    return refusal([&] { AllowedExperts<Recipe> some(numbers); });
  };
  CHECK(refused({0, 4}).empty());
  CHECK(refused({0, 5}) == "moegpt: AllowedExperts: there is no expert 5, expected 0 .. 4");
  CHECK_FALSE(refused({-1, 1, 2}).empty());
  CHECK(refused({3, 1, 3}) == "moegpt: AllowedExperts: expert 3 is named twice");
  CHECK(refused({3}) ==
        "moegpt: allowed: 1 of 5 experts may be chosen, but the router gives each token 2: allow at "
        "least so many");
}

TEST_CASE("a router that can select all experts needs one allowed expert only") {
  const bool none[5] = {}, one[5] = {false, false, true, false, false};
  CHECK(refusal([&] { check_allowed<ExpertChoiceRouter<5>>(one); }).empty());
  CHECK_FALSE(refusal([&] { check_allowed<ExpertChoiceRouter<5>>(none); }).empty());
  CHECK_FALSE(refusal([&] { check_allowed<Recipe>(one); }).empty());
  CHECK(refusal([&] { check_allowed<Recipe>(nullptr); }).empty());
}

TEST_CASE("a set of allowed experts is as small for many experts as for few, and its copy is another set") {
  STATIC_REQUIRE(sizeof(AllowedExperts<TopKRouter<1000, 2>>) == sizeof(AllowedExperts<Recipe>));
  const AllowedExperts<Recipe> some{0, 3}, copy = some;
  const bool *a = some, *b = copy;
  CHECK(a != b);
  for (int e = 0; e < 5; ++e) CHECK(a[e] == (e == 0 || e == 3));
  for (int e = 0; e < 5; ++e) CHECK(a[e] == b[e]);
}
