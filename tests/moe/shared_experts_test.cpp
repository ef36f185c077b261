#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/moe/shared_experts.hpp>
#include <moegpt/testing/gradcheck.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/layers.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

using Small = Expert<6, 5, Activation::gelu, double>;
using Gated5 = GatedExpert<6, 5, Activation::silu, double>;
template <class Recipe, class X = Small>
using Layer6 = MixtureOf<Recipe, X>;
using Plain = Layer6<SharedExperts<TopKRouter<5, 2>, 2>>;
using WithGate = Layer6<SharedExperts<TopKRouter<5, 2>, 1, Shared::gated>>;
using Weighted = Layer6<SharedExperts<TopKRouter<5, 3>, 1, Shared::weighted>>;
const Pass seven{.shape = {1, 7}};

// The output of the dense FFN for the same tokens.
template <class X>
Tokens<6, double> answer_of(const X& network, In<6, double> x) {
  FeedForward<X> dense;
  dense.network = network;
  return Ran<FeedForward<X>>(dense, x, {.shape = {1, x.count}}).y;
}

}  // namespace

TEST_CASE("the gradients of shared experts agree with differences: plain, gated, weighted") {
  const Index lengths[2] = {5, 3};
  const bool allowed[5] = {true, true, false, true, true};
  GradcheckOptions options;
  SECTION("alone") {}
  SECTION("losses, dropout, capacity, padding, an idle expert") {
    options.pass.dropout = 0.3;
    options.routing.objective = {.balance = 0.5, .z = 0.3};
    options.pass.key = Key{4};
    options.pass.options.capacity_factor = 0.8;
    options.pass.lengths = lengths;
    options.routing.allowed = allowed;
  }
  gradcheck_three_seeds<Plain>(options);
  gradcheck_three_seeds<WithGate>(options);
  gradcheck_three_seeds<Weighted>(options);
  gradcheck_three_seeds<Layer6<SharedExperts<TopKRouter<5, 1>, 3, Shared::gated>, Gated5>>(options);
}

TEST_CASE("a mixture with shared experts is the mixture plus the shared network, each times its factor") {
  const auto x = random_tokens<6, double>(7, 2);
  const auto examine = [&]<class L>(const L& layer, double routed_share, auto share_of) {
    const Ran<L> run(layer, x, seven);
    const Ran<std::remove_const_t<decltype(layer.routed)>> routed(layer.routed, x, seven);
    const auto shared = answer_of(layer.shared, x);
    for (Index n = 0; n < 7; ++n)
      for (int i = 0; i < 6; ++i)
        CHECK(std::abs(run.y[n][i] - routed_share * routed.y[n][i] - share_of(n) * shared[n][i]) < 1e-14);
    CHECK(run.tape.balance == routed.tape.balance);  // the tape derives from that of the routed experts
    CHECK(run.tape.z == routed.tape.z);
    CHECK(same_bits(run.tape.plan.slot, routed.tape.plan.slot));
    CHECK(same_bits(run.tape.router.score, routed.tape.router.score));
  };
  examine(drawn<Plain>(1), 1, [](Index) { return 1.0; });
  examine(drawn<Weighted>(2), 3.0 / 4, [](Index) { return 1.0 / 4; });
  const auto gated = drawn<WithGate>(3);
  examine(gated, 1, [&](Index n) {
    return 1 / (1 + std::exp(-kernels::dot(gated.shared_gate.weight.data(), x[n], 6)));
  });
  STATIC_REQUIRE(decltype(Plain::shared)::hidden == 10);  // two experts of width five
}

TEST_CASE("two shared experts are one of twice the width: their sum is its output") {
  const auto layer = drawn<Plain>(4);
  const auto x = random_tokens<6, double>(7, 5);
  Small half[2];
  for (int h = 0; h < 2; ++h) {
    half[h].up.weight.eigen() = layer.shared.up.weight.eigen().middleRows(5 * h, 5);
    half[h].up.bias.eigen() = layer.shared.up.bias.eigen().middleCols(5 * h, 5);
    half[h].down.weight.eigen() = layer.shared.down.weight.eigen().middleCols(5 * h, 5);
    if (h == 0) half[h].down.bias.eigen() = layer.shared.down.bias.eigen();
  }
  const auto whole = answer_of(layer.shared, x), a = answer_of(half[0], x), b = answer_of(half[1], x);
  for (Index i = 0; i < 42; ++i) CHECK(std::abs(whole[0][i] - a[0][i] - b[0][i]) < 1e-14);
}

TEST_CASE("when all experts, shared ones too, are equal, the weighted output is that of one of them") {
  auto layer = drawn<Weighted>(6);
  for (auto& expert : layer.routed.experts) expert = layer.shared;
  const auto x = random_tokens<6, double>(7, 7);
  CHECK(distance(Ran<Weighted>(layer, x, seven).y, answer_of(layer.shared, x)) < 1e-14);
}

TEST_CASE("a token whose pairs are dropped still has its shared expert") {
  const auto layer = drawn<WithGate>(8);
  const auto x = random_tokens<6, double>(7, 9);
  Pass pass = seven;
  pass.options.capacity_factor = 0.4;  // one token for each expert
  const Ran<WithGate> run(layer, x, pass);
  const auto shared = answer_of(layer.shared, x);
  int dropped = 0;
  for (Index n = 0; n < 7; ++n)
    if (run.tape.plan.slot[2 * n] == no_slot && run.tape.plan.slot[2 * n + 1] == no_slot) {
      ++dropped;
      for (int i = 0; i < 6; ++i)
        CHECK(run.y[n][i] == Approx(run.tape.gate[n] * shared[n][i]).epsilon(1e-15));
    }
  CHECK(dropped > 0);
}

TEST_CASE("freezing any weight of a mixture with shared experts changes no other gradient and no dx") {
  freezing_changes_no_other_gradient<WithGate>(seven);
}

TEST_CASE("shared experts have the same bits for 1, 2, 3 and 8 threads") {
  threads_change_no_bit<MixtureOf<SharedExperts<TopKRouter<5, 2>, 2, Shared::gated>, Expert<6, 37>>>();
  threads_change_no_bit<MixtureOf<SharedExperts<TopKRouter<5, 2>, 1, Shared::weighted>, Expert<6, 37>>>();
}

TEST_CASE(
    "given its routing a token's output of shared experts does not depend on other tokens (invariant 6)") {
  using L = MixtureOf<SharedExperts<TopKRouter<5, 2>, 1, Shared::gated>, Expert<6, 37>>;
  const auto layer = drawn<L>(10);
  const auto x = random_tokens<6, float>(40, 11);
  const Ran<L> all(layer, x, {.shape = {1, 40}, .exec = {2}});
  for (Index n = 0; n < 40; ++n) CHECK(same_bits(Ran<L>(layer, x.rows({n, 1}), {}).y[0], all.y[n], 6));
}

TEST_CASE("the dropout of a shared expert is not that of a routed one") {
  using L = Layer6<SharedExperts<TopKRouter<5, 1>>>;  // K = 1: one counter per token
  L layer = drawn<L>(12);
  for_each_weight(
      [](auto& w) {
        for (auto& v : w) v = 0;
      },
      layer.routed.experts);
  for_each_weight(
      [](auto& w) {
        for (auto& v : w) v = 0;
      },
      layer.shared);
  const auto x = random_tokens<6, double>(7, 13);
  const Pass pass{.shape = {1, 7}, .dropout = 0.5, .key = Key{14}};
  auto shared = layer;
  for (auto& v : shared.shared.down.bias) v = 1;
  for (auto& expert : layer.routed.experts)
    for (auto& v : expert.down.bias) v = 1;
  const Ran<L> shared_only(shared, x, pass), routed_only(layer, x, pass);  // dropout masks, times a gate
  int dropped_from_shared = 0, dropped_from_one = 0;
  for (Index i = 0; i < 42; ++i) {
    dropped_from_shared += shared_only.y[0][i] == 0;
    dropped_from_one += (shared_only.y[0][i] == 0) != (routed_only.y[0][i] == 0);
  }
  CHECK((dropped_from_shared > 10 && dropped_from_shared < 32));
  CHECK(dropped_from_one > 10);
}

TEST_CASE("the text of shared experts is the type one writes, and paths name their weights") {
  CHECK(SharedExperts<TopKRouter<64, 6>, 2>::text() == "SharedExperts<TopKRouter<64, 6>, 2>");
  CHECK(SharedExperts<TopKRouter<8, 2>, 1, Shared::gated>::text() ==
        "SharedExperts<TopKRouter<8, 2>, 1, Shared::gated>");
  std::string paths;
  WithGate layer;
  for_each_named_weight(
      [&](const std::string& path, Kind kind, auto&) {
        CHECK((kind == Kind::sparse) == (path.rfind("experts.", 0) == 0));
        if (path.rfind("experts.", 0) != 0) paths += path + " ";
      },
      layer);
  CHECK(paths ==
        "router.gate.weight shared.up.weight shared.up.bias shared.down.weight shared.down.bias "
        "shared_gate.weight ");
  using Choice = SharedExperts<ExpertChoiceRouter<5>>;
  STATIC_REQUIRE_FALSE(MixtureOf<Choice, Small>::causal);
  STATIC_REQUIRE(MixtureOf<AllowNonCausal<Choice>, Small>::causal);
}
