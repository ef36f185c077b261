#pragma once
// The HTML report of watch_routing: one file with charts of the routing of tokens.
#include <moegpt/moegpt.hpp>

#include "page.hpp"

namespace routing_page {
using namespace moegpt;

// An interval of training; vectors have one element per layer.
struct Frame {
  double loss = 0;
  std::vector<double> violation{}, information{};  // MaxVio; nats about the dialect
  std::vector<std::vector<double>> share{};        // of each expert in the choices
  std::vector<std::vector<int>> routes{};          // of one batch of held-out text
};
// On held-out text.
struct Layer {
  int number;
  RoutingCounts routing;
  ClassCounts dialects, letters;
};
struct Watched {
  long steps = 0;
  double balance = 0, entropy_rate = 0, held_out_loss = 0;
  int choices = 0;                     // K
  std::vector<std::string> samples{};  // a sentence of each dialect
  std::vector<Frame> history{};
  std::vector<Layer> layers{};
};

// Fraction of a class's choices that select expert e.
inline double share_of(const ClassCounts& table, int c, int e) {
  double all = 0;
  for (int i = 0; i < table.experts; ++i) all += static_cast<double>(table.at(c, i));
  return all > 0 ? static_cast<double>(table.at(c, e)) / all : 0;
}
inline std::string percent(double share) { return svg::number(100 * share, "%.1f") + " %"; }
inline std::string dialect_name(int d) { return std::string(1, static_cast<char>('A' + d)); }
inline std::vector<std::string> numbers_to(int count) {
  std::vector<std::string> all;
  for (int i = 0; i < count; ++i) all.push_back(std::to_string(i));
  return all;
}

inline std::string charts(const Watched& seen) {
  const auto end = static_cast<double>(seen.steps);
  const double chance = 100.0 * seen.choices / seen.layers.front().routing.experts;
  const std::string step = "training step";
  svg::Chart loss{.title = "Loss on the batches", .unit = "nats per character", .x_name = step, .end = end};
  loss.marks.emplace_back(seen.entropy_rate, "entropy of the text");
  loss.least = 0;
  svg::Chart violation{
      .title = "Imbalance of the load", .unit = "MaxVio: 0 is even", .x_name = step, .end = end, .least = 0};
  svg::Chart information{
      .title = "What an expert tells of the dialect", .unit = "nats", .x_name = step, .end = end, .least = 0};
  svg::Chart settled{.title = "Choices that are final already",
                     .unit = "percent",
                     .x_name = step,
                     .end = end,
                     .marks = {{chance, "by chance"}},
                     .least = 0};
  const auto over_time = [&](auto&& value) {
    std::vector<double> all;
    for (const Frame& f : seen.history) all.push_back(value(f));
    return all;
  };
  loss.series.push_back(svg::spread("loss", 0, over_time([](const Frame& f) { return f.loss; }), end));
  for (std::size_t i = 0; i < seen.layers.size(); ++i) {
    const auto add = [&](svg::Chart& chart, auto&& value) {
      chart.series.push_back(
          svg::spread("layer " + std::to_string(seen.layers[i].number), i, over_time(value), end));
    };
    add(violation, [&](const Frame& f) { return f.violation[i]; });
    add(information, [&](const Frame& f) { return f.information[i]; });
    add(settled, [&](const Frame& f) {
      return 100 * saturation(f.routes[i], seen.history.back().routes[i], seen.choices);
    });
  }
  return svg::draw(loss) + svg::draw(violation) + svg::draw(information) + svg::draw(settled);
}

inline std::string loads(const Watched& seen) {
  const int E = seen.layers.front().routing.experts;
  const std::size_t frames = seen.history.size();
  double most = 2.0 / E;
  for (const Frame& f : seen.history)
    for (const auto& share : f.share) most = std::max(most, *std::max_element(share.begin(), share.end()));
  std::string pictures;
  for (std::size_t i = 0; i < seen.layers.size(); ++i) {
    svg::Heatmap map{.title = "Layer " + std::to_string(seen.layers[i].number),
                     .row_name = "expert",
                     .col_name = "training step",
                     .rows = numbers_to(E),
                     .cols = std::vector<std::string>(frames),
                     .top = 100 * most,
                     .mark = 100.0 / E,
                     .mark_name = "even share, " + percent(1.0 / E),
                     .unit = " %",
                     .cell_height = 22};
    for (std::size_t e = 0; e < static_cast<std::size_t>(E); ++e)
      for (const Frame& f : seen.history) map.value.push_back(100 * f.share[i][e]);
    for (std::size_t t = 0; t < frames; ++t)
      if (t == 0 || (t + 1) * 4 / frames != t * 4 / frames)
        map.cols[t] = std::to_string(seen.steps * static_cast<long>(t + 1) / static_cast<long>(frames));
    pictures += svg::draw(map);
  }
  return pictures;
}

inline std::string tables(const Watched& seen) {
  const int E = seen.layers.front().routing.experts;
  double most = 2.0 / E;
  for (const Layer& layer : seen.layers)
    for (int c = 0; c < layer.dialects.classes; ++c)
      for (int e = 0; e < E; ++e) most = std::max(most, share_of(layer.dialects, c, e));
  std::string pictures;
  for (const Layer& layer : seen.layers) {
    const ClassCounts& table = layer.dialects;
    svg::Heatmap map{.title = "Layer " + std::to_string(layer.number) + ": an expert tells " +
                              svg::number(table.mutual_information(), "%.2f") + " of " +
                              svg::number(table.class_entropy(), "%.2f") + " nats",
                     .row_name = "dialect",
                     .col_name = "expert",
                     .cols = numbers_to(E),
                     .top = 100 * most,
                     .mark = 100.0 / E,
                     .mark_name = "even share, " + percent(1.0 / E),
                     .unit = " %",
                     .numbers = true,
                     .cell_height = 34};
    for (int c = 0; c < table.classes; ++c) {
      map.rows.push_back(dialect_name(c));
      for (int e = 0; e < E; ++e) map.value.push_back(100 * share_of(table, c, e));
    }
    pictures += svg::draw(map);
  }
  return pictures;
}

inline std::string together(const Watched& seen) {
  const int E = seen.layers.front().routing.experts;
  const double chance = double(seen.choices) * (seen.choices - 1) / (E * (E - 1.0));
  double most = 2 * chance;
  for (const Layer& layer : seen.layers)
    for (int a = 0; a < E; ++a)
      for (int b = 0; b < a; ++b) most = std::max(most, layer.routing.coactivation(a, b));
  std::string pictures;
  for (const Layer& layer : seen.layers) {
    svg::Heatmap map{.title = "Layer " + std::to_string(layer.number),
                     .row_name = "expert",
                     .col_name = "expert",
                     .rows = numbers_to(E),
                     .cols = numbers_to(E),
                     .top = 100 * most,
                     .mark = 100 * chance,
                     .mark_name = "if pairs were even, " + percent(chance),
                     .format = "%.1f",
                     .unit = " %",
                     .numbers = true,
                     .mute_diagonal = true,
                     .cell_height = 32};
    for (int a = 0; a < E; ++a)
      for (int b = 0; b < E; ++b) map.value.push_back(100 * layer.routing.coactivation(a, b));
    pictures += svg::draw(map);
  }
  return pictures;
}

inline std::string figures(const Watched& seen) {
  std::vector<std::vector<std::string>> rows{{"On held-out text"}};
  for (const Layer& layer : seen.layers) rows[0].push_back("layer " + std::to_string(layer.number));
  const auto row = [&](const std::string& name, auto&& figure) {
    rows.push_back({name});
    for (const Layer& layer : seen.layers) rows.back().push_back(figure(layer));
  };
  auto two = [](double x) { return svg::number(x, "%.2f"); };
  auto told = [&](const ClassCounts& of) {
    return two(of.mutual_information()) + " of " + two(of.class_entropy());
  };
  row("MaxVio (even: 0)", [&](const Layer& l) { return two(l.routing.max_violation()); });
  row("experts without tokens", [&](const Layer& l) { return std::to_string(l.routing.dead()); });
  row("entropy of the router, nats (undecided: " + two(std::log(seen.layers.front().routing.experts)) + ")",
      [&](const Layer& l) { return two(l.routing.mean_entropy()); });
  row("largest gate of a token, mean", [&](const Layer& l) { return two(l.routing.mean_top_gate()); });
  row("an expert tells of the dialect, nats", [&](const Layer& l) { return told(l.dialects); });
  row("an expert tells of the letter, nats", [&](const Layer& l) { return told(l.letters); });
  return page::table(rows);
}

inline std::string html(const Watched& seen) {
  const RoutingCounts& first = seen.layers.front().routing;
  auto section = [](const char* title, const char* words, const std::string& pictures) {
    return page::section(title, words, page::grid(pictures));
  };
  std::string text =
      "<h1>Where the tokens go</h1>\n<p>A GPT with " + std::to_string(seen.layers.size()) + " mixtures of " +
      std::to_string(first.experts) + " experts, of which each token uses " + std::to_string(seen.choices) +
      ", after " + std::to_string(seen.steps) + " steps on a text in " + std::to_string(seen.samples.size()) +
      " invented dialects. The coefficient of the balance loss was " + svg::number(seen.balance) +
      ". On text it has not seen the loss is " + svg::number(seen.held_out_loss, "%.3f") +
      " nats per character, " + svg::number(seen.held_out_loss - seen.entropy_rate, "%.3f") +
      " above the entropy of the text.</p>\n<table class=\"samples\">\n";
  for (std::size_t d = 0; d < seen.samples.size(); ++d)
    text += "<tr><td>dialect " + dialect_name(static_cast<int>(d)) + "</td><td>" +
            svg::escaped(seen.samples[d]) + "</td></tr>\n";
  text += "</table>\n" + figures(seen);
  text += section(
      "While it learns",
      "The loss falls towards the entropy of the text, below which no model can get. MaxVio says how "
      "far the busiest expert is above an even share: at 1 it has twice as much. What an expert tells "
      "of the dialect is their mutual information, 0 if routing does not depend on it. The last "
      "picture shows how early a router settles.",
      charts(seen));
  text += section(
      "Load of the experts",
      "Percent of all choices that go to each expert, while it learns. All rows alike: balance. One strong "
      "row among weak ones: collapse, one expert does the work. An empty row: an expert that learns nothing.",
      loads(seen));
  text += section(
      "Which dialect uses which expert",
      "Percent of a dialect's choices that go to each expert, on held-out text; each row sums to 100. Rows "
      "that look alike: routing does not depend on dialects. Strong cells in different places: experts have "
      "specialised.",
      tables(seen));
  text +=
      section("Experts that are used together",
              "Percent of tokens that use both experts, on held-out text. On the grey diagonal: tokens that "
              "use the expert at all.",
              together(seen));
  return page::whole("Where the tokens go", text);
}

}  // namespace routing_page
