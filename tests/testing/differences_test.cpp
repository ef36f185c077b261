#include <moegpt/testing/differences.hpp>

#include "support/catch.hpp"

using namespace moegpt;
using testing::Point;
using testing::TensorUnderTest;

namespace {

// Compares the given derivatives of f at x with differences.
template <class F>
Point examine(F&& f, std::vector<double>& x, const std::vector<double>& said, GradcheckReport& report,
              const GradcheckOptions& options = {}) {
  return testing::compare(f, {TensorUnderTest{"x", x.data(), said.data(), static_cast<Index>(x.size())}},
                          options, report);
}

}  // namespace

TEST_CASE("right derivatives are accepted, x is restored, and the error of differences is far below 1e-6") {
  std::vector<double> x{0.3, -2, 5}, said;
  const auto before = x;
  for (const double v : x) said.push_back(3 * v * v * std::cos(v * v * v / 1000) / 1000);
  GradcheckReport report;
  CHECK(examine(
            [&] {
              double f = 0;
              for (const double v : x) f += std::sin(v * v * v / 1000);
              return f;
            },
            x, said, report) == Point::differentiable);
  CHECK(report.ok);
  CHECK(report.worst < 1e-9);
  CHECK(x == before);
}

TEST_CASE("a wrong derivative is reported with both values") {
  std::vector<double> x{1, 2};
  GradcheckReport report;
  CHECK(examine([&] { return x[0] + 3 * x[1]; }, x, {1, 4}, report) == Point::differentiable);
  CHECK_FALSE(report.ok);
  CHECK(report.where == "x");
  CHECK(report.worst == Approx(0.25).epsilon(1e-6));  // relative to the largest derivative of the tensor
  CHECK(report.message.find("x: backward says 4, differences say 3") == 0);
}

TEST_CASE("errors are relative to the tensor, and below 1e-6 absolute nothing is wrong") {
  std::vector<double> x{1, 2};
  GradcheckReport report;
  CHECK(examine([&] { return 1e6 * x[0] + 0.5 * x[1]; }, x, {1e6, 0}, report) == Point::differentiable);
  CHECK(report.ok);  // 0.5 is 5e-7 of the largest
  GradcheckReport zero;
  CHECK(examine([&] { return 0.0; }, x, {0, 0}, zero) == Point::differentiable);
  CHECK(zero.ok);
  CHECK(zero.worst == 0);
}

TEST_CASE("a NaN on either side is an error, not a kink") {
  std::vector<double> x{1};
  const double not_a_number = std::numeric_limits<double>::quiet_NaN();
  GradcheckReport said, found;
  CHECK(examine([&] { return x[0]; }, x, {not_a_number}, said) == Point::differentiable);
  CHECK_FALSE(said.ok);
  CHECK(examine([&] { return not_a_number; }, x, {1}, found) == Point::differentiable);
  CHECK_FALSE(found.ok);
}

TEST_CASE("a kink or a jump within the step is distinguished from a wrong derivative") {
  std::vector<double> kink{5e-5}, jump{1 + 5e-5};
  GradcheckReport report;
  CHECK(examine([&] { return std::abs(kink[0]); }, kink, {1}, report) == Point::not_differentiable);
  CHECK(examine([&] { return jump[0] > 1 ? 1.0 : 0.0; }, jump, {0}, report) == Point::not_differentiable);
  CHECK(report.ok);
}

TEST_CASE(
    "until_differentiable draws anew with other numbers until a point is smooth, and gives up in the end") {
  std::vector<std::uint64_t> drawn;
  const GradcheckReport third = testing::until_differentiable({}, [&](GradcheckReport&, Rng& rng) {
    drawn.push_back(rng.bits());
    return drawn.size() == 3 ? Point::differentiable : Point::not_differentiable;
  });
  CHECK(third.ok);
  REQUIRE(drawn.size() == 3);
  CHECK(drawn[0] != drawn[1]);
  CHECK(drawn[1] != drawn[2]);
  int draws = 0;
  const GradcheckReport never = testing::until_differentiable({.draws = 4}, [&](GradcheckReport&, Rng&) {
    ++draws;
    return Point::not_differentiable;
  });
  CHECK(draws == 4);
  CHECK_FALSE(never.ok);
  CHECK(never.message.find("no differentiable point in 4 draws") == 0);
}

TEST_CASE("options with which the outcome does not depend on backward are rejected") {
  const auto refuses = [](const GradcheckOptions& options, const std::string& part) {
    CHECK_THROWS_WITH(testing::until_differentiable(
                          options, [](GradcheckReport&, Rng&) { return testing::Point::differentiable; }),
                      ContainsSubstring(part));
  };
  for (const int count : {0, -1}) {
    refuses({.per_tensor = count}, "per_tensor is " + std::to_string(count));
    refuses({.draws = count}, "draws " + std::to_string(count));
  }
  for (const double x : {0.0, -1e-6, std::nan("")}) {
    refuses({.tolerance = x}, "tolerance is ");
    refuses({.spread = x}, "spread is ");
  }
  refuses({.pass = {.shape = {0, 5}}}, "0 x 5");
}
