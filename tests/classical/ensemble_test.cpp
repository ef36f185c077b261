#include <moegpt/classical/ensemble.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

TEST_CASE("an ensemble is the mean of outputs or of probabilities") {
  const auto a = random_tokens<3, double>(2, 1), b = random_tokens<3, double>(2, 2);
  const In<3, double> both[] = {a, b};
  Tokens<3, double> outputs(2), probabilities(2);
  mean_of_outputs<3, double>(both, outputs);
  mean_of_probabilities<3, double>(both, probabilities);
  for (Index n = 0; n < 2; ++n) {
    double total = 0;
    for (int k = 0; k < 3; ++k) {
      const auto share = [&](const auto& z) {
        return std::exp(z[n][k]) / (std::exp(z[n][0]) + std::exp(z[n][1]) + std::exp(z[n][2]));
      };
      CHECK(outputs[n][k] == Approx((a[n][k] + b[n][k]) / 2));
      CHECK(probabilities[n][k] == Approx((share(a) + share(b)) / 2));
      total += probabilities[n][k];
    }
    CHECK(total == Approx(1));
  }
}

TEST_CASE("an ensemble refuses no models and outputs of other tokens") {
  Tokens<3, double> y(2);
  const auto short_one = random_tokens<3, double>(1, 1);
  const In<3, double> one[] = {short_one};
  CHECK_THAT(refusal([&] { mean_of_outputs<3, double>({}, y); }), ContainsSubstring("no models"));
  CHECK_THAT(refusal([&] { mean_of_probabilities<3, double>(one, y); }),
             ContainsSubstring("1 tokens, expected 2"));
}
