#include <moegpt/moe/balance.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

TEST_CASE("the balance loss is E sum f P, computed by hand") {
  const Index count[3] = {1, 2, 5};
  const double mean[3] = {0.5, 0.3, 0.2};
  // 3 (1/8 * 0.5 + 2/8 * 0.3 + 5/8 * 0.2) = 3 * 0.2625
  CHECK(balance_loss<double>(count, mean, 3) == Approx(0.7875).epsilon(1e-15));
}

TEST_CASE("balanced counts and uniform scores give exactly 1, and all on one expert gives E") {
  const Index balanced[4] = {7, 7, 7, 7}, one[4] = {28, 0, 0, 0};
  const float uniform[4] = {0.25f, 0.25f, 0.25f, 0.25f}, sure[4] = {1, 0, 0, 0};
  CHECK(balance_loss<float>(balanced, uniform, 4) == 1);
  CHECK(balance_loss<float>(one, sure, 4) == 4);
  CHECK(balance_loss<float>(one, uniform, 4) == 1);   // linear in f: uniform scores always give 1
}

TEST_CASE("the loss falls below 1 when counts and scores disagree: 1 is no minimum") {
  const Index count[2] = {9, 1};
  const double mean[2] = {0.1, 0.9};
  CHECK(balance_loss<double>(count, mean, 2) == Approx(0.36).epsilon(1e-15));
}

TEST_CASE("without a routed pair there is no loss and no gradient") {
  const Index count[2] = {};
  const float mean[2] = {0.5f, 0.5f};
  float d[2] = {9, 9};
  CHECK(balance_loss<float>(count, mean, 2) == 0);
  balance_loss_backward<float>(count, 2, 1, d);
  CHECK(d[0] == 0);
  CHECK(d[1] == 0);
}

TEST_CASE("the gradient by a mean score is coefficient E f") {
  const Index count[3] = {1, 2, 5};
  double d[3];
  balance_loss_backward<double>(count, 3, 0.01, d);
  CHECK(d[0] == Approx(0.01 * 3 * 1 / 8).epsilon(1e-15));
  CHECK(d[2] == Approx(0.01 * 3 * 5 / 8).epsilon(1e-15));
}

TEST_CASE("mean scores and the z-loss leave padding out") {
  Tokens<2, double> score(4);
  score.eigen() << 0.1, 0.3, 0.9, 7, 0.9, 0.7, 0.1, 7;   // columns are tokens, the last is padding
  Tokens<1, double> lse(4);
  lse.eigen() << 1, 2, 3, 100;
  const Index lengths[2] = {2, 1};
  const Pass pass{.shape = {2, 2}, .lengths = lengths};
  double mean[2];
  mean_scores<2, double>(score, pass, mean);
  CHECK(mean[0] == Approx(1.3 / 3).epsilon(1e-15));
  CHECK(mean[1] == Approx(1.7 / 3).epsilon(1e-15));
  CHECK(z_loss<double>(lse, pass) == Approx(14.0 / 3).epsilon(1e-15));
}

TEST_CASE("a batch of nothing but padding has no mean and no loss, not NaN") {
  Tokens<2, double> score(2);
  Tokens<1, double> lse(2);
  const Index lengths[2] = {0, 0};
  const Pass pass{.shape = {2, 1}, .lengths = lengths};
  double mean[2];
  mean_scores<2, double>(score, pass, mean);
  CHECK(mean[0] == 0);
  CHECK(z_loss<double>(lse, pass) == 0);
}
