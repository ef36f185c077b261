// The page of `report`: whatever the logs hold, it is well-formed HTML that needs nothing but itself.
#include "../../examples/report_page.hpp"

#include "support/catch.hpp"

using namespace moegpt;
using report_page::Run;

namespace {

const std::string hostile =
    "</title></style></pre><script>alert(1)</script>\" onload='x' &amp; <img src=x> \x01";

StepRecord step_record(Index step, int layers, int experts) {
  StepRecord r;
  r.step = step, r.tokens = 100 * step, r.loss = 4.0 / static_cast<double>(step),
  r.time = static_cast<double>(step);
  r.gradient_norm = 1, r.learning_rate = 1e-3, r.tokens_per_second = 1000;
  for (int l = 0; l < layers; ++l) {
    LayerLoad& layer = r.layers.emplace_back();
    layer.layer = l, layer.wanted = 10 * experts, layer.load.assign(static_cast<std::size_t>(experts), 9);
  }
  return r;
}
Run run_of(int steps, int layers = 2, int experts = 4) {
  Run run{.name = hostile, .metrics = {}, .routing = RoutingRecord{}};
  run.metrics.run = RunRecord{.model = hostile,
                              .parameters = 1000,
                              .active = 500,
                              .steps = 1 + steps,
                              .unit = hostile,
                              .options = {{hostile, hostile}},
                              .baselines = {{hostile, 4.1}, {"infinite", INFINITY}}};
  for (int s = 1; s <= steps; ++s) {
    run.metrics.steps.push_back(step_record(s, layers, experts));
    if (s % 5 == 0) run.metrics.evaluations.push_back({s, 3.0 / s, 3.1 / s, true, 0});
  }
  run.metrics.samples = {{1, hostile, 0}, {2, "second", 0}};
  run.metrics.events = {{1, hostile, hostile, 0}};
  RoutingRecord& routing = *run.routing;
  routing.tokens = {hostile, "a", "\n", " "};
  for (int l = 0; l < layers; ++l)
    routing.layers.push_back(
        {l, experts, 2, {0, 1, 1, 0, no_expert, no_expert, 2, 3}, {0.9, 0.1, 0.5, 0.5, 0, 0, 0.7, 0.3}});
  return run;
}

// The first tag that closes another one than the last that is open; empty: none.
std::string misplaced_tag(const std::string& html) {
  static const std::vector<std::string> single{"!DOCTYPE", "meta", "input"};
  std::vector<std::string> open;
  for (std::size_t at = 0; (at = html.find('<', at)) != html.npos;) {
    const std::size_t end = html.find('>', at);
    if (end == html.npos) return "< at the end";
    const bool closes = html[at + 1] == '/';
    const std::size_t from = at + 1 + closes;
    const std::string name = html.substr(from, html.find_first_of(" >\n", from) - from);
    if (closes) {
      if (open.empty() || open.back() != name) return "/" + name + " in " + (open.empty() ? "" : open.back());
      open.pop_back();
    } else if (std::find(single.begin(), single.end(), name) == single.end()) {
      open.push_back(name);
    }
    at = end;
  }
  return open.empty() ? "" : open.back() + " at the end";
}
int count(const std::string& text, std::string_view part) {
  int found = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != text.npos; ++at) ++found;
  return found;
}
void check_page(const std::string& html) {
  CHECK(misplaced_tag(html).empty());
  for (const char* const part : {"<script", "<img", "http:", "https:", "<link", "url(", "@import", "\x01",
                                 "=nan", "\"nan", "nan,", ",nan", "inf,", ",inf", "-nan", ">nan<", ">inf<"}) {
    INFO(part);
    CHECK(html.find(part) == html.npos);
  }
  CHECK(count(html, "default-src 'none'") == 1);
  CHECK(count(html, "onload='") == 0);
  CHECK(count(html, "\" onload=") == 0);
}

}  // namespace

TEST_CASE("a page of hostile texts is well-formed and runs nothing") {
  const std::string html = report_page::html({run_of(40)});
  check_page(html);
  CHECK(count(html, "&lt;script&gt;alert(1)&lt;/script&gt;") >= 9);  // shown, not executed
  CHECK(count(html, "class=\"wide\"") == 1);
  CHECK(count(html, "<title>") > 1);  // of the page, and tooltips
  check_page(report_page::html({run_of(40), run_of(7), run_of(500, 1, 70)}));
}

TEST_CASE("a page of two runs of usual size has at most 700 kB, and all that a pointer shows is in tables") {
  Run run = run_of(3000, 4, 8);
  Rng rng(5);
  for (StepRecord& r : run.metrics.steps) {
    r.loss += rng.uniform(), r.gradient_norm += rng.uniform();
    for (LayerLoad& layer : r.layers)
      for (Index& load : layer.load) load = static_cast<Index>(rng.below(100));
  }
  run.name = "run", run.metrics.run->options.clear(), run.metrics.evaluations.resize(60);
  run.metrics.final_loss = FinalRecord{.step = 3000, .val = 1.25};
  RoutingRecord& routing = *run.routing;
  routing.tokens.clear();
  for (auto& layer : routing.layers) layer.expert.clear(), layer.gate.clear();
  for (int n = 0; n < 2000; ++n) {
    routing.tokens.emplace_back(1, static_cast<char>('a' + rng.below(26)));
    for (auto& layer : routing.layers) {
      const auto first = static_cast<int>(rng.below(8));
      const double gate = 0.5 + 0.5 * rng.uniform();
      layer.expert.insert(layer.expert.end(), {first, (first + 1) % 8});
      layer.gate.insert(layer.gate.end(), {gate, 1 - gate});
    }
  }
  const std::string html = report_page::html({run, run});
  check_page(html);
  CHECK(html.size() < 700000);
  CHECK(count(html, "The curves as a table") == 1);
  CHECK(count(html, "The same as tables") == 2);
  CHECK(count(html, "The same as a table") == 2);
  CHECK(count(html, "<td>1 \u2013 250</td>") == 2);
  const std::string one = report_page::html({run});
  CHECK(count(one, "<b>1.2500</b><span>val loss at the end, of the whole validation text</span>") == 1);
}

TEST_CASE("a chosen expert leaves its own colour only: of grounds where it is first, of lines where second") {
  const std::string rules = routed_text::style(*run_of(3, 1, 4).routing, "r");
  CHECK(count(rules, "#rt .x0-2{--x0:var(--e4-2)}#rt .y0-2{--y0:var(--f4-2)}") == 1);
  CHECK(count(rules, "#re0-2:checked~.text i:not(.x0-2){--x0:none}") == 1);
  CHECK(count(rules, "#re0-2:checked~.text i:not(.y0-2){--y0:transparent}") == 1);
  CHECK(count(rules, "#rl0:checked~#re0-2:checked~.text i:not(.x0-2,.y0-2){color:var(--dim)}") == 1);
}

TEST_CASE("numbers on heat have the colour with more contrast") {
  CHECK(page::luminance({255, 255, 255}) == Approx(1));
  CHECK(page::contrast(page::luminance({0, 0, 0}), 1) == Approx(21));
  // Ground darker than both: the lighter of two texts; lighter than both: the darker one.
  constexpr int night[5][3] = {},
                day[5][3] = {
                    {255, 255, 255}, {255, 255, 255}, {255, 255, 255}, {255, 255, 255}, {255, 255, 255}};
  CHECK(count(page::heat_style(night, {20, 20, 20}, {250, 250, 250}), "fill:var(--on)") == svg::heat_levels);
  CHECK(count(page::heat_style(day, {20, 20, 20}, {250, 250, 250}), "fill:var(--on)") == 0);
  CHECK(count(page::heat_style(day, {250, 250, 250}, {20, 20, 20}), "fill:var(--on)") == svg::heat_levels);
}

TEST_CASE("a page of a run that has only begun says what there is") {
  for (int steps = 0; steps < 12; ++steps) check_page(report_page::html({run_of(steps)}));
  check_page(report_page::html({Run{.name = "nothing", .metrics = {}}}));
  Run dense = run_of(20, 0, 1);
  const std::string html = report_page::html({dense});
  check_page(html);
  CHECK(count(html, "Load of the experts") == 0);
  CHECK(count(html, "no routed layers") == 1);
}

TEST_CASE("a routing record that claims very many experts costs no more than its text") {
  Run run = run_of(3);
  run.routing->layers.resize(300, run.routing->layers[0]);
  for (auto& layer : run.routing->layers) layer.experts = 100000;
  const std::string html = report_page::html({run});
  check_page(html);
  CHECK(count(html, "too many experts") == 1);
  CHECK(html.size() < 100000);
}

TEST_CASE("values that are not finite are gaps in a curve") {
  Run run = run_of(30);
  for (const std::size_t i : {0, 7, 8, 29}) run.metrics.steps[i].loss = i == 7 ? INFINITY : NAN;
  run.metrics.evaluations[1].val = NAN;
  run.metrics.steps[3].gradient_norm = NAN;
  check_page(report_page::html({run}));
}

TEST_CASE("an expert takes the tokens that it is sent more often than others are") {
  RoutingRecord record{.step = 1, .tokens = {"a", "a", "b", "b", "c", "c"}};
  record.layers.push_back({0, 3, 1, {0, 0, 1, 1, 0, 1}, {1, 0.5, 1, 1, 1, 1}});
  const auto taken = routed_text::taken(record, record.layers[0]);
  REQUIRE(taken.size() == 3);
  CHECK(taken[0].share == Approx(0.5));
  CHECK(taken[0].gate == Approx(2.5 / 3));
  REQUIRE(taken[0].tokens.size() == 1);  // c occurs with it once only
  CHECK(taken[0].tokens[0].text == "a");
  CHECK(taken[0].tokens[0].of_token == 1);
  CHECK(taken[0].tokens[0].score == Approx(2 * std::log(2.0)));
  CHECK(taken[1].tokens.at(0).text == "b");
  CHECK(taken[2].share == 0);
  CHECK(taken[2].tokens.empty());
}

TEST_CASE("the means of a chart are of all steps, with their extremes") {
  Run run = run_of(1000);
  const svg::Series s =
      report_page::means(run, "x", 0, [](const StepRecord& r) { return static_cast<double>(r.step); }, 100);
  REQUIRE(s.y.size() == 100);
  CHECK(s.y[0] == Approx(5.5));
  CHECK(s.low[0] == 1);
  CHECK(s.high[0] == 10);
  CHECK(s.x.back() == 1000);
}
