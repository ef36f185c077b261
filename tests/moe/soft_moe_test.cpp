#include <moegpt/moe/soft_moe.hpp>
#include <moegpt/testing/gradcheck.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/layers.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

using Small = Expert<6, 5, Activation::gelu, double>;
using Soft = SoftMoELayer<3, 2, Small>;
const Pass seven{.shape = {1, 7}};

}  // namespace

TEST_CASE("the gradients of Soft MoE agree with differences") {
  const Index lengths[2] = {5, 3}, none[2] = {0, 5};
  const bool allowed[5] = {true, false, true, true, true};
  GradcheckOptions options;
  SECTION("plain") {}
  SECTION("dropout") {
    options.pass.dropout = 0.3;
    options.pass.key = Key{3};
  }
  SECTION("padding") { options.pass.lengths = lengths; }
  SECTION("a sequence of nothing but padding") { options.pass.lengths = none; }
  SECTION("a forbidden expert") { options.routing.allowed = allowed; }
  SECTION("a single token") { options.pass.shape = {1, 1}; }
  gradcheck_three_seeds<Soft>(options);
  gradcheck_three_seeds<SoftMoELayer<5, 1, Small>>(options);
  gradcheck_three_seeds<SoftMoELayer<3, 3, GatedExpert<6, 5, Activation::silu, double>>>(options);
}

TEST_CASE("Soft MoE is its formula: two softmaxes, means of tokens in slots and means of slot outputs") {
  const auto layer = drawn<Soft>(1);
  const auto x = random_tokens<6, double>(14, 2);
  const Ran<Soft> run(layer, x, {.shape = {2, 7}});
  for (Index b = 0; b < 2; ++b) {
    const Eigen::MatrixXd X = x.eigen().middleCols(7 * b, 7);
    const Eigen::MatrixXd l = (layer.router.weight.eigen() * X).array().exp();  // [S, tokens]
    const Eigen::VectorXd over_tokens = l.rowwise().sum();
    const Eigen::RowVectorXd over_slots = l.colwise().sum();
    const Eigen::MatrixXd dispatch = over_tokens.cwiseInverse().asDiagonal() * l;
    const Eigen::MatrixXd combine = l * over_slots.cwiseInverse().asDiagonal();
    Tokens<6, double> slot_count(6), answers(6);
    slot_count.eigen() = X * dispatch.transpose();
    for (std::size_t e = 0; e < 3; ++e) {
      FeedForward<Small> expert;
      expert.network = layer.experts[e];
      const Ran<FeedForward<Small>> answer(expert, slot_count.rows({2 * Index(e), 2}), {.shape = {1, 2}});
      answers.eigen().middleCols(2 * Index(e), 2) = answer.y.eigen();
    }
    const Eigen::MatrixXd expected = answers.eigen() * combine;
    CHECK((run.y.eigen().middleCols(7 * b, 7) - expected).cwiseAbs().maxCoeff() < 1e-14);
  }
}

TEST_CASE("a slot's dispatch weights sum to one over its sequence, a token's combine weights over slots") {
  const auto layer = drawn<Soft>(3);
  const Index lengths[2] = {7, 4};
  const Ran<Soft> run(layer, random_tokens<6, double>(14, 4), {.shape = {2, 7}, .lengths = lengths});
  for (Index b = 0; b < 2; ++b) {
    for (Index s = 0; s < 6; ++s)
      CHECK(kernels::sum(run.tape.dispatch.data() + (b * 6 + s) * 7, lengths[b]) == Approx(1).epsilon(1e-14));
    for (Index n = 7 * b; n < 7 * b + 7; ++n)
      CHECK(kernels::sum(run.tape.combine[n], 6) == Approx(n < 7 * b + lengths[b] ? 1 : 0).epsilon(1e-14));
  }
}

TEST_CASE("one slot for one token is the dense feed-forward layer") {
  const auto layer = drawn<SoftMoELayer<1, 1, Small>>(5);
  FeedForward<Small> dense;
  dense.network = layer.experts[0];
  const auto x = random_tokens<6, double>(7, 6);
  const Pass alone{.shape = {7, 1}};  // seven sequences of one token
  const Ran<FeedForward<Small>> expected(dense, x, alone);
  CHECK(same_bits(Ran<SoftMoELayer<1, 1, Small>>(layer, x, alone).y, expected.y));
}

TEST_CASE("with uniform logits every token has the mean of the experts' outputs for the mean token") {
  auto layer = drawn<Soft>(7);
  for (auto& w : layer.router.weight) w = 0;
  const auto x = random_tokens<6, double>(7, 8);
  const Ran<Soft> run(layer, x, seven);
  Tokens<6, double> mean(1);
  mean.eigen() = x.eigen().rowwise().mean();
  Eigen::VectorXd expected = Eigen::VectorXd::Zero(6);
  for (std::size_t e = 0; e < 3; ++e) {
    FeedForward<Small> expert;
    expert.network = layer.experts[e];
    expected += Ran<FeedForward<Small>>(expert, mean, {}).y.eigen() / 3;
  }
  for (Index n = 0; n < 7; ++n) CHECK((run.y.eigen().col(n) - expected).cwiseAbs().maxCoeff() < 1e-14);
}

TEST_CASE("a permutation of Soft MoE's experts with their slots gives the same output") {
  const auto layer = drawn<Soft>(9);
  auto permuted = layer;
  const std::size_t order[3] = {2, 0, 1};
  for (std::size_t e = 0; e < 3; ++e) {
    permuted.experts[e] = layer.experts[order[e]];
    permuted.router.weight.eigen().middleRows(2 * Index(e), 2) =
        layer.router.weight.eigen().middleRows(2 * Index(order[e]), 2);
  }
  const auto x = random_tokens<6, double>(7, 10);
  CHECK(distance(Ran<Soft>(layer, x, seven).y, Ran<Soft>(permuted, x, seven).y) < 1e-14);
}

TEST_CASE("Soft MoE is equivariant to the order of a sequence's tokens") {
  const auto layer = drawn<Soft>(11);
  const auto x = random_tokens<6, double>(7, 12);
  Tokens<6, double> reversed(7);
  for (Index n = 0; n < 7; ++n) reversed.eigen().col(n) = x.eigen().col(6 - n);
  const Ran<Soft> run(layer, x, seven), other(layer, reversed, seven);
  for (Index n = 0; n < 7; ++n)
    CHECK((run.y.eigen().col(n) - other.y.eigen().col(6 - n)).cwiseAbs().maxCoeff() < 1e-14);
}

TEST_CASE(
    "a sequence has the same bits beside others, with padding and dropout, and padding has output zero") {
  using L = SoftMoELayer<4, 3, Expert<6, 37>>;
  const auto layer = drawn<L>(13);
  const auto x = random_tokens<6, float>(90, 14), dy = random_tokens<6, float>(90, 15);
  const Index lengths[3] = {30, 17, 30};
  const Pass all{.shape = {3, 30}, .dropout = 0.3, .key = Key{16}, .lengths = lengths};
  Ran<L> run(layer, x, all);
  run.back(layer, x, dy, all);
  Pass alone = all;
  alone.shape = {1, 17};
  alone.lengths = nullptr;
  alone.first_token = 30;
  alone.sequence_stride = 30;
  Ran<L> second(layer, x.rows({30, 17}), alone);
  second.back(layer, x.rows({30, 17}), dy.rows({30, 17}), alone);
  CHECK(same_bits(second.y[0], run.y[30], 17 * 6));
  CHECK(same_bits(second.dx[0], run.dx[30], 17 * 6));
  for (Index i = 0; i < 13 * 6; ++i) CHECK((run.y[47][i] == 0 && run.dx[47][i] == 0));
}

TEST_CASE("Soft MoE and its dropout do not depend on positions") {
  Soft layer;
  draw_weights(layer, 12);
  const auto x = random_tokens<6, double>(10, 13);
  const Index firsts[2] = {4, 1};
  Pass pass{.shape = {2, 5}, .dropout = 0.4, .key = Key{16}};
  const Ran<Soft> from_zero(layer, x, pass);
  pass.first_positions = firsts;
  const Ran<Soft> later(layer, x, pass);
  CHECK(same_bits(later.y, from_zero.y));
}

TEST_CASE("Soft MoE has the same bits for 1, 2, 3 and 8 threads, for one long sequence and for several") {
  threads_change_no_bit<SoftMoELayer<4, 3, Expert<6, 37>>>();
  threads_change_no_bit<SoftMoELayer<8, 16, Expert<64, 37>>>({1, 300});
}

TEST_CASE("an expert that is not allowed has no influence, is not marked and has no gradient") {
  const auto layer = drawn<Soft>(17);
  const auto x = random_tokens<6, double>(7, 18), dy = random_tokens<6, double>(7, 19);
  const bool allowed[3] = {true, false, true};
  const RoutedPass pass(seven, {.allowed = allowed});
  Ran<Soft> run(layer, x, pass);
  run.back(layer, x, dy, pass);
  for (Index n = 0; n < 7; ++n) CHECK((run.tape.combine[n][2] == 0 && run.tape.combine[n][3] == 0));
  CHECK(kernels::squared_norm(run.grad.experts[1].up.weight.data(), 30) == 0);
  CHECK(kernels::squared_norm(run.grad.experts[2].up.weight.data(), 30) > 0);
  CHECK_FALSE(run.grad.experts[1].up.weight.touched);
  CHECK(run.grad.experts[2].up.weight.touched);
}

TEST_CASE("Soft MoE rejects an invalid objective") {
  const auto layer = drawn<Soft>(20);
  const auto x = random_tokens<6, double>(7, 21);
  const RoutedPass pass(seven, {.objective = {.expert_dropout = 1}});
  CHECK(refusal([&] { Ran<Soft>(layer, x, pass); }).find("expert_dropout is 1") != std::string::npos);
}

TEST_CASE("freezing any weight of Soft MoE changes no other gradient and no dx") {
  freezing_changes_no_other_gradient<Soft>(seven);
}

TEST_CASE("Soft MoE is not causal except inside AllowNonCausal, and its text is the type one writes") {
  CHECK(SoftMoE<8, 4>::text() == "SoftMoE<8, 4>");
  STATIC_REQUIRE_FALSE(MixtureOf<SoftMoE<8, 4>, Small>::causal);
  STATIC_REQUIRE(MixtureOf<AllowNonCausal<SoftMoE<8, 4>>, Small>::causal);
}
