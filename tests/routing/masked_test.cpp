#include <moegpt/routing/dropping.hpp>
#include <moegpt/routing/expert_choice_router.hpp>
#include <moegpt/routing/masked.hpp>
#include <moegpt/routing/noisy_top_k_router.hpp>
#include <moegpt/testing/gradcheck.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/layers.hpp"
#include "support/numbers.hpp"
#include "support/rules.hpp"

using namespace moegpt;

namespace {

using Small = Expert<6, 5, Activation::gelu, double>;
using Two = MoELayer<TopKRouter<5, 2>, Small>;
using MaskedTwo = MoELayer<Masked<TopKRouter<5, 2>, 3>, Small>;
const Pass seven{.shape = {1, 7}};

RoutedPass in_task(int task) { return {seven, {.task = task}}; }
// The same experts and router, with masks of ones.
MaskedTwo masked(const Two& layer) {
  MaskedTwo copy;
  copy.experts = layer.experts;
  copy.router.inner = layer.router;
  for (auto& mask : copy.router.mask)
    for (double& m : mask) m = 1;
  return copy;
}

}  // namespace

TEST_CASE("the gradients of masked routers agree with differences") {
  const bool allowed[5] = {true, true, false, true, true};
  GradcheckOptions options;
  options.routing.task = 1;
  SECTION("plain") {}
  SECTION("losses, capacity, an idle expert") {
    options.routing.objective = {.balance = 0.5, .z = 0.3};
    options.pass.options.capacity_factor = 0.6;
    options.routing.allowed = allowed;
  }
  gradcheck_three_seeds<Masked<TopKRouter<5, 2>, 2>>(options);
  gradcheck_three_seeds<Masked<TopKRouter<6, 3>, 2>>(options);
  gradcheck_three_seeds<Masked<TopKRouter<5, 1>, 3>>(options);
  gradcheck_three_seeds<Masked<NoisyTopKRouter<5, 2>, 2>>(options);
  gradcheck_three_seeds<Masked<ExpertChoiceRouter<5>, 2>>(options);
  gradcheck_three_seeds<MaskedTwo>(options);
}

TEST_CASE("a mask of ones changes no bit") {
  const auto layer = drawn<Two>(1);
  const auto x = random_tokens<6, double>(7, 2), dy = random_tokens<6, double>(7, 3);
  Ran<Two> run(layer, x, seven);
  const auto ones = masked(layer);
  Ran<MaskedTwo> same(ones, x, in_task(2));
  CHECK(same_bits(run.y, same.y));
  run.back(layer, x, dy, seven);
  same.back(ones, x, dy, in_task(2));
  CHECK(same_bits(run.dx, same.dx));
  CHECK(same_weights(run.grad.experts, same.grad.experts));
  CHECK(same_weights(run.grad.router, same.grad.router.inner));
}

TEST_CASE("an expert with the mask zero adds nothing, and the gates of the others are not renormalised") {
  auto layer = masked(drawn<Two>(4));
  const auto x = random_tokens<6, double>(7, 5);
  const Ran<MaskedTwo> whole(layer, x, in_task(1));
  int e = 0;
  while (whole.tape.plan.load(e) < 2) ++e;
  layer.router.mask[1][e] = 0;
  const Ran<MaskedTwo> without(layer, x, in_task(1)), other_task(layer, x, in_task(0));
  layer.router.mask[1][e] = 1;
  for (auto& w : layer.experts[static_cast<std::size_t>(e)].down.weight) w = 0;
  for (auto& w : layer.experts[static_cast<std::size_t>(e)].down.bias) w = 0;
  const Ran<MaskedTwo> silent(layer, x, in_task(1));
  CHECK(distance(without.y, silent.y) < 1e-15);
  CHECK(distance(without.y, whole.y) > 0.01);
  CHECK(same_bits(other_task.y, whole.y));  // the mask is that of task 1
}

TEST_CASE("a step of one task has gradients for its own mask only, and marks no other") {
  const auto layer = drawn<MaskedTwo>(6);
  const auto x = random_tokens<6, double>(7, 7), dy = random_tokens<6, double>(7, 8);
  Ran<MaskedTwo> run(layer, x, in_task(1));
  run.back(layer, x, dy, in_task(1));
  for (const std::size_t task : {0, 1, 2}) {
    CHECK(run.grad.router.mask[task].touched == (task == 1));
    CHECK((kernels::squared_norm(run.grad.router.mask[task].data(), 5) > 0) == (task == 1));
  }
}

TEST_CASE("freezing any mask or other weight of a masked mixture changes no other gradient and no dx") {
  freezing_changes_no_other_gradient<MaskedTwo>(in_task(1));
}

TEST_CASE("a masked mixture has the same bits for 1, 2, 3 and 8 threads") {
  threads_change_no_bit<MoELayer<Masked<TopKRouter<5, 2>, 2>, Expert<6, 37>>>();
}

TEST_CASE("a task id without a mask is rejected by a message that names it") {
  const auto layer = drawn<MaskedTwo>(9);
  const auto x = random_tokens<6, double>(7, 10);
  CHECK(refusal([&] { Ran<MaskedTwo>(layer, x, in_task(3)); }) ==
        "moegpt: Masked: this is task 3, but there are masks for tasks 0 .. 2; set task of the workspace");
  CHECK_FALSE(refusal([&] { Ran<MaskedTwo>(layer, x, in_task(-1)); }).empty());
  CHECK(refusal([&] { Ran<MaskedTwo>(layer, x, in_task(2)); }).empty());
}

TEST_CASE("the path of a mask has its task id, and the router keeps its paths") {
  std::string paths;
  Masked<TopKRouter<5, 2>, 2>::For<6> router;
  for_each_named_weight([&](const std::string& path, Kind, auto&) { paths += path + " "; }, router);
  CHECK(paths == "gate.weight mask.0 mask.1 ");
  CHECK(Masked<TopKRouter<5, 2>, 3>::text() == "Masked<TopKRouter<5, 2>, 3>");
}

TEST_CASE("masked routers pass check_router in any task") {
  check_rule<Masked<TopKRouter<5, 2>, 3>>({.task = 2});
  check_rule<Masked<Dropping<TopKRouter<5, 2>, Drop::probability>>>();
  check_rule<Masked<ExpertChoiceRouter<5>>>();
}
