// Pictures, records and fits of the experiments in bench/experiments.
#include "../../bench/support/figure.hpp"

#include "../../bench/support/fits.hpp"
#include "../../bench/support/records.hpp"
#include "support/catch.hpp"
#include "support/temporary_folder.hpp"

#include <moegpt/train/corpus.hpp>

using namespace bench;

namespace {

int count(const std::string& text, std::string_view part) {
  int found = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != text.npos; ++at) ++found;
  return found;
}
bool has(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

Figure example() {
  return {.title = "A < B",
          .x = {.name = "FLOPs", .logarithmic = true},
          .y = {.name = "loss, nats"},
          .series = {
              {.name = "seeds", .colour = 0, .draw = Figure::Draw::points, .points = {{1e9, 2}, {1e12, 1}}},
              {.name = "fit", .colour = 1, .draw = Figure::Draw::dashed, .points = {{1e9, 2}, {1e12, 1}}}}};
}

}  // namespace

TEST_CASE("A figure has axes, points, lines and a legend") {
  const std::string svg = draw(example());
  CHECK(svg.rfind("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\"", 0) == 0);
  CHECK(has(svg, "A &lt; B"));
  CHECK(has(svg, ">FLOPs<"));
  CHECK(has(svg, ">loss, nats<"));
  CHECK(has(svg, ">seeds<"));
  CHECK(has(svg, "prefers-color-scheme:dark"));
  CHECK(count(svg, "<circle") == 3);    // two points and one in the legend
  CHECK(count(svg, "<polyline") == 2);  // the fit and its legend
  CHECK(count(svg, "<text") == count(svg, "</text>"));
  CHECK(has(svg, ">10¹²<"));
  CHECK(draw(example()) == svg);
}

TEST_CASE("A figure leaves out what its axes cannot show") {
  Figure f = example();
  f.series[0].points = {{0, 1}, {-1, 1}, {NAN, 1}, {1e9, INFINITY}, {1e10, 1.5}};
  const std::string svg = draw(f);
  CHECK(count(svg, "<circle") == 2);
  for (const char* wrong : {"nan", "inf"}) CHECK_FALSE(has(svg, wrong));
  f.series.clear();
  for (const char* wrong : {"nan", "inf"}) CHECK_FALSE(has(draw(f), wrong));
}

TEST_CASE("Points are at the place of their values") {
  const figure::Scale log =
      figure::scale_of({.name = "", .logarithmic = true, .low = 1, .high = 100}, {1, 100});
  CHECK(log.share(10) == Approx(0.5));
  const figure::Scale linear = figure::scale_of({.name = ""}, {0, 0.9});
  CHECK(linear.low == 0);
  CHECK(linear.high == Approx(1));
  CHECK(linear.share(0.25) == Approx(0.25));
  CHECK(figure::tick_text(linear, 0.4) == "0.4");
  CHECK(figure::tick_text(figure::scale_of({.name = ""}, {1.75, 1.8}), 1.8) == "1.80");
  const Axis powers{.name = "", .logarithmic = true, .ticks = {1, 4, 64}};
  CHECK(figure::scale_of(powers, {1, 4}).ticks == std::vector<double>{1, 4});
  CHECK(figure::tick_text(2e12) == "2·10¹²");
  CHECK(figure::tick_text(1e-4) == "10⁻⁴");
  CHECK(figure::tick_text(20000) == "20k");
  CHECK(figure::tick_text(1.5) == "1.5");
}

TEST_CASE("Fits find the laws that made the points") {
  const RoutedLaw law{.a = -0.08, .b = -0.1, .c = 0.004, .d = 1.6, .start = 2, .most = 4 * std::pow(1.1, 20)};
  std::vector<LossPoint> points;
  for (const double N : {1e4, 4e4, 2e5})
    for (const double E : {1.0, 2.0, 4.0, 8.0, 16.0, 32.0}) points.push_back({N, E, law(N, E)});
  const RoutedLaw found = fit_routed_law(points);
  CHECK(residuals_of(found, points).largest < 1e-9);
  CHECK(found.start == 2);
  CHECK(found.most == Approx(law.most));
  CHECK(found.a == Approx(law.a));
  CHECK(found.c == Approx(law.c));
  CHECK(law.saturated(1) == Approx(2));

  const PowerLaw power = fit_power_law({{10, 1, 5}, {1000, 1, 2.5}});
  CHECK(power.a == Approx(std::log(0.5) / std::log(100)));
  CHECK(power(100) == Approx(5 / std::sqrt(2.0)));
  CHECK_THROWS_AS(fit_power_law({{10, 1, 5}}), std::invalid_argument);
  CHECK_THROWS_AS(fit_power_law({{10, 1, 5}, {10, 1, 6}}), std::invalid_argument);
  points[3].loss *= 1.1;
  CHECK(residuals_of(law, points).largest == Approx(std::log(1.1)));
}

TEST_CASE("Records go on behind the last whole line") {
  const TemporaryFolder folder;
  const auto path = folder / "new/runs.jsonl";
  {
    Records records(path);
    records.add({{"cell", "a"}, {"seed", 1}, {"val", 1.25}});
    records.add({{"cell", "a"}, {"seed", 2}, {"val", 1.75}});
    CHECK(records.has({{"cell", "a"}, {"seed", 2}}));
  }
  std::ofstream(path, std::ios::app) << R"({"cell": "b", "se)";  // stopped while it wrote
  Records records(path);
  CHECK(records.all().size() == 2);
  records.add({{"cell", "b"}, {"seed", 1}, {"val", 2}});
  const Records again(path);
  REQUIRE(again.all().size() == 3);
  CHECK(again.where({{"cell", "a"}}).size() == 2);
  CHECK_FALSE(again.has({{"cell", "b"}, {"seed", 2}}));
  CHECK_FALSE(again.has({{"unknown", 1}}));

  const Sample sample(again.where({{"cell", "a"}}), "val");
  CHECK(sample.mean() == 1.5);
  CHECK(sample.interval() == Approx(12.706 * 0.25));
  CHECK(with_interval(sample, 2) == "1.50 ± 3.18");
  CHECK(with_interval(Sample(std::vector<double>{2}), 1) == "2.0");

  std::ofstream(path, std::ios::app) << "no JSON\n";
  CHECK_THROWS_AS(Records(path), std::invalid_argument);
}

TEST_CASE("Tables are replaced within their document") {
  const TemporaryFolder folder;
  const auto path = folder / "page.md";
  write_file(path, "before\n<!-- t -->\nold\n<!-- end of t -->\nafter\n");
  write_between(path, "t", "new\n");
  write_between(path, "other", "nothing\n");
  CHECK(moegpt::read_text(path.string()) == "before\n<!-- t -->\nnew\n<!-- end of t -->\nafter\n");
}
