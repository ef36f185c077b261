#include <moegpt/train/schedule.hpp>

#include "../support/catch.hpp"
#include <limits>

using namespace moegpt;

namespace {

const WarmupCosine rate{.peak = 1, .minimum = 0.1, .warmup = 4, .steps = 24};

}  // namespace

TEST_CASE("warm-up rises by equal steps from above zero to below the peak") {
  CHECK(rate(0) == Approx(0.2).epsilon(1e-15));
  CHECK(rate(1) == Approx(0.4).epsilon(1e-15));
  CHECK(rate(3) == Approx(0.8).epsilon(1e-15));
}

TEST_CASE(
    "the peak is reached when warm-up ends, the mean of peak and minimum half-way, the minimum at the end") {
  CHECK(rate(4) == 1);
  CHECK(rate(9) == Approx(0.1 + 0.45 * (1 + std::sqrt(0.5))).epsilon(1e-14));  // a quarter: cos(pi / 4)
  CHECK(rate(14) == Approx(0.55).epsilon(1e-15));
  CHECK(rate(23) == Approx(0.1 + 0.45 * (1 + std::cos(std::acos(-1) * 19 / 20))).epsilon(1e-14));
  CHECK(rate(24) == 0.1);
}

TEST_CASE("the rate falls from the peak to the minimum and stays there") {
  for (int step = 4; step < 24; ++step) CHECK(rate(step + 1) < rate(step));
  CHECK(rate(25) == 0.1);
  CHECK(rate(1000000) == 0.1);
}

TEST_CASE("without warm-up the first step has the peak, and a run of no steps the minimum") {
  const WarmupCosine at_once{.peak = 1, .minimum = 0.1, .warmup = 0, .steps = 10};
  CHECK(at_once(0) == 1);
  const WarmupCosine never{.peak = 1, .minimum = 0.1, .warmup = 0, .steps = 0};
  CHECK(never(0) == 0.1);
}

TEST_CASE("a warm-up longer than the run still rises, and later steps have the minimum") {
  const WarmupCosine slow{.peak = 1, .minimum = 0.1, .warmup = 10, .steps = 5};
  CHECK(slow(9) == Approx(10.0 / 11).epsilon(1e-15));
  CHECK(slow(10) == 0.1);
}

// nanoGPT, config/train_shakespeare_char.py
TEST_CASE("the defaults of the schedule are nanoGPT's for characters") {
  constexpr WarmupCosine usual;
  STATIC_REQUIRE((usual.peak == 1e-3 && usual.minimum == 1e-4 && usual.warmup == 100 && usual.steps == 5000));
}

TEST_CASE("a schedule with a peak below its minimum, no rate or a negative step is rejected") {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  for (const WarmupCosine& wrong :
       {WarmupCosine{.peak = 5e-5}, WarmupCosine{.minimum = -1}, WarmupCosine{.peak = nan},
        WarmupCosine{.minimum = nan}, WarmupCosine{.peak = inf}})
    CHECK_THROWS_WITH(wrong(0), ContainsSubstring("expected 0 <= minimum <= peak"));
  CHECK_THROWS_WITH((WarmupCosine{.warmup = -1}(0)), ContainsSubstring("warmup -1"));
  CHECK_THROWS_WITH((WarmupCosine{.steps = -1}(0)), ContainsSubstring("steps -1"));
  CHECK_THROWS_WITH(rate(-1), ContainsSubstring("step -1"));
}
