#include <moegpt/run/peak.hpp>

#include "support/catch.hpp"

using namespace moegpt;

TEST_CASE("the FLOPs of a step are six for each active weight and token, and those of attention") {
  using Model =
      GPT<Config{
              .vocab = 7, .context = 6, .dim = 8, .layers = 2, .heads = 2, .hidden = 12, .output_bias = true},
          TopKRouter<4, 2>>;
  const Model model;
  // each layer: attention 4 D D, router D E, 2 of the 4 experts 2 D Dff; head D V
  const double weights = 2 * (4 * 64 + 8 * 4 + 2 * 2 * 8 * 12) + 8 * 7;
  CHECK(weights_in_products(model) == weights);
  const double attention =
      2.0 * 2 * (6 + 1) * 8;  // layers, query key and weights value, (T + 1) / 2 keys each, D
  CHECK(model_flops(model, {3, 6}) == 18 * (6 * weights + 3 * attention));
  using Tied =
      GPT<Config{.vocab = 7, .context = 6, .dim = 8, .layers = 1, .heads = 2, .hidden = 12, .tied = true}>;
  CHECK(weights_in_products(Tied{}) == 4 * 64 + 2 * 8 * 12 + 8 * 7);
}

TEST_CASE("the peak is a rate, and needs a thread and a round") {
  CHECK(measured_peak<float>(1, 1, 0.001) > 1e8);
  CHECK(measured_peak<double>(2, 1, 0.001) > 1e8);
  CHECK_THROWS_WITH(measured_peak<float>(0), ContainsSubstring("0 threads"));
}

TEST_CASE("the speed is a mean without the first step, and without bias") {
  Speed speed;
  CHECK(speed.tokens_per_second() == 0);
  speed.add(4, 100);
  CHECK(speed.seconds_per_step() == 4);
  CHECK(speed.tokens_per_second() == 25);
  speed.add(1, 100);
  CHECK(speed.seconds_per_step() == Approx(1));
  CHECK(speed.tokens_per_second() == Approx(100));
  speed.add(2, 100);
  CHECK(speed.seconds_per_step() == Approx((0.95 * 1 + 2) / 1.95));
  for (int i = 0; i < 400; ++i) speed.add(0.5, 200);
  CHECK(speed.tokens_per_second() == Approx(400).epsilon(1e-6));
}
