#include <moegpt/routing/balance.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

// f and then the loss, in one group.
template <class T, int E>
T loss_of(const Index (&count)[E], const T (&mean)[E], const BalanceRule& rule = {}, Index tokens = 0) {
  T share[E];
  load_shares(rule, count, E, tokens, 1, share);
  return balance_loss(share, mean, E);
}

}  // namespace

TEST_CASE("the balance loss is E sum f P, computed by hand") {
  const Index count[3] = {1, 2, 5};
  const double mean[3] = {0.5, 0.3, 0.2};
  // 3 (1/8 * 0.5 + 2/8 * 0.3 + 5/8 * 0.2) = 3 * 0.2625
  CHECK(loss_of<double>(count, mean) == Approx(0.7875).epsilon(1e-15));
}

TEST_CASE("uniform counts and scores give exactly 1, and all on one expert gives E") {
  const Index balanced[4] = {7, 7, 7, 7}, one[4] = {28, 0, 0, 0};
  const float uniform[4] = {0.25f, 0.25f, 0.25f, 0.25f}, sure[4] = {1, 0, 0, 0};
  CHECK(loss_of<float>(balanced, uniform) == 1);
  CHECK(loss_of<float>(one, sure) == 4);
  CHECK(loss_of<float>(one, uniform) == 1);  // uniform scores give 1 for any f
}

TEST_CASE("load fractions per token sum to K, so that the balanced loss is K") {
  const Index balanced[4] = {7, 7, 7, 7};  // of 14 tokens with two choices each
  const float uniform[4] = {0.25f, 0.25f, 0.25f, 0.25f};
  CHECK(loss_of<float>(balanced, uniform, BalanceRule::huggingface, 14) == 2);
}

TEST_CASE(
    "the balanced value is 1 per MoE layer, K where load fractions sum to K, and one for all layers under a "
    "mean") {
  STATIC_REQUIRE(balanced_value(BalanceRule::switch_transformer, 2, 3) == 3);
  STATIC_REQUIRE(balanced_value(BalanceRule::gshard, 2, 3) == 3);
  STATIC_REQUIRE(balanced_value(BalanceRule::deepseek, 2, 3) == 3);
  STATIC_REQUIRE(balanced_value(BalanceRule::flaxformer, 2, 3) == 6);
  STATIC_REQUIRE(balanced_value(BalanceRule::huggingface, 2, 3) == 2);
  STATIC_REQUIRE(balanced_value(BalanceRule::megablocks, 2, 3) == 1);
}

TEST_CASE("the loss is below 1 for some unequal counts and scores: 1 is not its minimum") {
  const Index count[2] = {9, 1};
  const double mean[2] = {0.1, 0.9};
  CHECK(loss_of<double>(count, mean) == Approx(0.36).epsilon(1e-15));
}

TEST_CASE("without a routed pair there is no loss and no gradient") {
  const Index count[2] = {};
  const float mean[2] = {0.5f, 0.5f};
  float share[2] = {9, 9}, d[2] = {};
  load_shares(BalanceRule{}, count, 2, 0, 1, share);
  CHECK(balance_loss(share, mean, 2) == 0);
  balance_loss_backward(share, 2, 1, 1.0f, d);
  CHECK(d[0] == 0);
  CHECK(d[1] == 0);
}

TEST_CASE("the gradient by a mean score is coefficient E f, added") {
  const double share[3] = {1. / 8, 2. / 8, 5. / 8};
  double d[3] = {1, 1, 1};
  balance_loss_backward(share, 3, 1, 0.01, d);
  CHECK(d[0] == Approx(1 + 0.01 * 3 * 1 / 8).epsilon(1e-15));
  CHECK(d[2] == Approx(1 + 0.01 * 3 * 5 / 8).epsilon(1e-15));
}

TEST_CASE("mean scores and the z-loss leave padding out") {
  Tokens<2, double> score(4);
  score.eigen() << 0.1, 0.3, 0.9, 7, 0.9, 0.7, 0.1, 7;  // columns are tokens, the last is padding
  Tokens<1, double> lse(4);
  lse.eigen() << 1, 2, 3, 100;
  const Index lengths[2] = {2, 1};
  const Pass pass{.shape = {2, 2}, .lengths = lengths};
  double mean[4];
  mean_scores<double>(score, Group::batch, pass, mean);
  CHECK(mean[0] == Approx(1.3 / 3).epsilon(1e-15));
  CHECK(mean[1] == Approx(1.7 / 3).epsilon(1e-15));
  CHECK(z_loss<double>(lse, pass) == Approx(14.0 / 3).epsilon(1e-15));
  mean_scores<double>(score, Group::sequence, pass, mean);
  CHECK(mean[0] == Approx(0.2).epsilon(1e-15));
  CHECK(mean[1] == Approx(0.8).epsilon(1e-15));
  CHECK(mean[2] == 0.9);
  CHECK(mean[3] == 0.1);
}

TEST_CASE("means of more experts than one block of sums has are those of each alone") {
  const auto score = random_tokens<37, double>(9, 1);
  double mean[37];
  mean_scores<double>(score, Group::batch, {.shape = {1, 9}}, mean);
  for (int e = 0; e < 37; ++e) {
    double sum = 0;
    for (Index n = 0; n < 9; ++n) sum += score[n][e];
    CHECK(mean[e] == Approx(sum / 9).margin(1e-15));
  }
}

TEST_CASE("a batch of padding only has mean 0 and loss 0, not NaN") {
  Tokens<2, double> score(2);
  Tokens<1, double> lse(2);
  const Index lengths[2] = {0, 0};
  const Pass pass{.shape = {2, 1}, .lengths = lengths};
  double mean[2];
  mean_scores<double>(score, Group::batch, pass, mean);
  CHECK(mean[0] == 0);
  CHECK(z_loss<double>(lse, pass) == 0);
}

TEST_CASE("the squared coefficient of variation is variance over squared mean, in both conventions") {
  const double v[4] = {1, 2, 3, 6};  // mean 3, squares 14
  const Dispersion dispersion(4, [&](int e) { return v[e]; });
  CHECK(dispersion.cv2(Variance::population) == Approx(14. / 4 / 9).epsilon(1e-9));
  CHECK(dispersion.cv2(Variance::unbiased) == Approx(14. / 3 / 9).epsilon(1e-9));
  const Dispersion even(4, [](int) { return 5.; }), one(1, [](int) { return 5.; }),
      none(4, [](int) { return 0.; });
  for (const Variance form : {Variance::population, Variance::unbiased}) {
    CHECK(even.cv2(form) == 0);
    CHECK(one.cv2(form) == 0);  // one expert: no division by E - 1 = 0
    CHECK(none.cv2(form) == 0);
    CHECK(none.d_cv2(form, 0) == 0);
  }
}

TEST_CASE("the derivatives of variance and CV^2 agree with differences") {
  double v[5] = {1, 2, 0.5, 6, 3};
  const auto dispersion = [&] { return Dispersion(5, [&](int e) { return v[e]; }); };
  for (const Variance form : {Variance::population, Variance::unbiased})
    for (int e = 0; e < 5; ++e) {
      const Dispersion at = dispersion();
      const double h = 1e-5, x = v[e];
      v[e] = x + h;
      const Dispersion up = dispersion();
      v[e] = x - h;
      const Dispersion down = dispersion();
      v[e] = x;
      CHECK(at.d_variance(form, x) ==
            Approx((up.variance(form) - down.variance(form)) / (2 * h)).margin(1e-8));
      CHECK(at.d_cv2(form, x) == Approx((up.cv2(form) - down.cv2(form)) / (2 * h)).margin(1e-8));
    }
}

TEST_CASE("CV^2 adds Tensor2Tensor's 1e-10 to the squared mean, which matters for tiny means") {
  const double tiny[2] = {1e-5, 3e-5}, mean = 2e-5, variance = 1e-10;  // squares / 2
  const Dispersion dispersion(2, [&](int e) { return tiny[e]; });
  CHECK(dispersion.cv2(Variance::population) == Approx(variance / (mean * mean + 1e-10)).epsilon(1e-12));
  CHECK(dispersion.cv2(Variance::unbiased) == Approx(2 * variance / (mean * mean + 1e-10)).epsilon(1e-12));
  const Dispersion none(2, [](int) { return 0.0; });
  CHECK(none.cv2(Variance::population) == 0);
}
