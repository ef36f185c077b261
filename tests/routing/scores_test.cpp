#include <moegpt/routing/scores.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <numeric>

using namespace moegpt;

namespace {

constexpr int E = 7;

// Scores and normalised scores of a row of logits, and <s, ds> + <normalised, d_normalised>.
template <class Scores>
struct Row {
  double z[E], s[E], normalised[E], lse;
  explicit Row(const Buffer<double>& logits) {
    std::copy_n(logits.data(), E, z);
    std::copy_n(z, E, normalised);
    lse = Scores::forward(z, s, normalised, E);
    if (Scores::are_normalised) std::copy_n(normalised, E, s);
  }
  double value(const double* ds, const double* d_normalised) const {
    return std::inner_product(s, s + E, ds, 0.0) +
           std::inner_product(normalised, normalised + E, d_normalised, 0.0);
  }
};

template <class Scores>
void check_derivative() {
  auto z = random_numbers<double>(E, 1, 2);
  const auto ds = random_numbers<double>(E, 2), d_normalised = random_numbers<double>(E, 3);
  const Row<Scores> row(z);
  double both[E], dz[E] = {};
  for (int e = 0; e < E; ++e) both[e] = ds[e] + d_normalised[e];
  Scores::backward(row.s, row.normalised, Scores::are_normalised ? both : ds.data(), d_normalised.data(), dz,
                   E);
  for (int e = 0; e < E; ++e) {
    const double h = 1e-5, at = z[e];
    z[e] = at + h;
    const double above = Row<Scores>(z).value(ds.data(), d_normalised.data());
    z[e] = at - h;
    const double below = Row<Scores>(z).value(ds.data(), d_normalised.data());
    z[e] = at;
    CHECK(dz[e] == Approx((above - below) / (2 * h)).epsilon(1e-7));
  }
}

}  // namespace

TEST_CASE("the gradients of all scores and normalised scores agree with differences") {
  SECTION("softmax") { check_derivative<SoftmaxScores>(); }
  SECTION("sigmoid") { check_derivative<SigmoidScores>(); }
  SECTION("root of softplus") { check_derivative<RootSoftplusScores>(); }
}

TEST_CASE("scores are the sigmoid and the root of softplus, and normalised scores sum to one") {
  const auto z = random_numbers<double>(E, 4, 3);
  const Row<SigmoidScores> sigmoid(z);
  const Row<RootSoftplusScores> root(z);
  double total = 0, exponentials = 0;
  for (int e = 0; e < E; ++e) {
    CHECK(sigmoid.s[e] == Approx(1 / (1 + std::exp(-z[e]))).epsilon(1e-14));
    CHECK(root.s[e] == Approx(std::sqrt(std::log1p(std::exp(z[e])))).epsilon(1e-14));
    total += sigmoid.normalised[e];
    exponentials += std::exp(z[e]);
    CHECK(sigmoid.normalised[e] / sigmoid.normalised[0] ==
          Approx(sigmoid.s[e] / sigmoid.s[0]).epsilon(1e-13));
  }
  CHECK(total == Approx(1).epsilon(1e-14));
  CHECK(sigmoid.lse == Approx(std::log(exponentials)).epsilon(1e-14));
}

TEST_CASE("scores of logits without bounds are finite, and experts that are not allowed have score zero") {
  Buffer<double> z(E);
  const double given[E] = {700, 1e4, -1e4, 0, kernels::minus_infinity<double>, 800, -800};
  std::copy_n(given, E, z.data());
  const Row<SigmoidScores> sigmoid(z);
  const Row<RootSoftplusScores> root(z);
  const Row<SoftmaxScores> softmax(z);
  for (int e = 0; e < E; ++e) {
    CHECK((std::isfinite(sigmoid.s[e]) && std::isfinite(sigmoid.normalised[e])));
    CHECK((std::isfinite(root.s[e]) && std::isfinite(root.normalised[e])));
    CHECK(std::isfinite(softmax.s[e]));
    CHECK((sigmoid.s[e] >= 0 && sigmoid.s[e] <= 1));
    CHECK(std::isfinite(RootSoftplusFunction::slope(root.s[e])));
  }
  CHECK(sigmoid.s[4] == 0);
  CHECK(root.s[4] == 0);
  CHECK(softmax.s[4] == 0);
  CHECK(root.s[1] == Approx(100));
}

TEST_CASE("the gradient of the z-loss has the softmax of the logits, for all scores") {
  const auto z = random_numbers<double>(E, 5);
  const Row<SoftmaxScores> softmax(z);
  const Row<SigmoidScores> sigmoid(z);
  double a[E] = {}, b[E] = {};
  SoftmaxScores::add_softmax(softmax.s, softmax.z, softmax.lse, 0.3, a, E);
  SigmoidScores::add_softmax(sigmoid.s, sigmoid.z, sigmoid.lse, 0.3, b, E);
  for (int e = 0; e < E; ++e) {
    CHECK(a[e] == Approx(0.3 * std::exp(z[e] - softmax.lse)).epsilon(1e-13));
    CHECK(b[e] == Approx(a[e]).epsilon(1e-13));
  }
}
