#pragma once
// The HTML report of one or several runs: what report writes.
#include <moegpt/run/console.hpp>
#include <moegpt/run/metrics.hpp>

#include "routed_text.hpp"

namespace report_page {
using namespace moegpt;

struct Run {
  std::string name;
  Metrics metrics;
  std::optional<RoutingRecord> routing{};
};

inline Index last_step(const Run& run) {
  Index last = 0;
  if (!run.metrics.steps.empty()) last = run.metrics.steps.back().step;
  if (!run.metrics.evaluations.empty()) last = std::max(last, run.metrics.evaluations.back().step);
  return last;
}
inline const EvaluationRecord* best_of(const Run& run) {
  const EvaluationRecord* best = nullptr;
  for (const EvaluationRecord& e : run.metrics.evaluations)
    if (std::isfinite(e.val) && (!best || e.val < best->val)) best = &e;
  return best;
}
inline std::string unit_of(const std::vector<Run>& runs) {
  const auto& run = runs.front().metrics.run;
  return "nats per " + (run && !run->unit.empty() ? run->unit : std::string("token"));
}
inline std::string whole(Index n) {  // 12,288,000
  std::string digits = std::to_string(n);
  for (auto at = static_cast<Index>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(static_cast<std::size_t>(at), 1, ',');
  return digits;
}

// value(step record) over the steps, as means of at most `points` intervals, with their extremes as a band.
template <class F>
svg::Series means(const Run& run, std::string name, std::size_t colour, F&& value, std::size_t points = 140) {
  svg::Series s{std::move(name), {}, {}, colour};
  const auto& steps = run.metrics.steps;
  const std::size_t each = (steps.size() + points - 1) / std::max<std::size_t>(points, 1);
  for (std::size_t from = 0; from < steps.size(); from += each) {
    const std::size_t to = std::min(steps.size(), from + each);
    double sum = 0, low = INFINITY, high = -INFINITY;
    int count = 0;
    for (std::size_t i = from; i < to; ++i)
      if (const double v = value(steps[i]); std::isfinite(v))
        sum += v, ++count, low = std::min(low, v), high = std::max(high, v);
    s.x.push_back(static_cast<double>(steps[to - 1].step));
    s.y.push_back(count > 0 ? sum / count : NAN);
    s.low.push_back(count > 0 ? low : NAN);
    s.high.push_back(count > 0 ? high : NAN);
  }
  if (each <= 1) s.low.clear(), s.high.clear();
  return s;
}

inline double end_of(const std::vector<Run>& runs) {
  Index end = 1;
  for (const Run& run : runs) end = std::max(end, last_step(run));
  return static_cast<double>(end);
}
inline std::string of_run(const std::vector<Run>& runs, std::size_t i, std::string_view what) {
  if (runs.size() == 1) return std::string(what);
  return as_utf8(std::string_view(runs[i].name).substr(0, 40)) +
         (what.empty() ? "" : ": " + std::string(what));
}

inline std::string loss_chart(const std::vector<Run>& runs) {
  svg::Chart chart{.title = "Cross-entropy", .unit = unit_of(runs), .x_name = "step", .end = end_of(runs)};
  const bool one = runs.size() == 1;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const auto& evaluations = runs[i].metrics.evaluations;
    chart.series.push_back(
        means(runs[i], of_run(runs, i, one ? "batches" : ""), i, [](const StepRecord& r) { return r.loss; }));
    chart.series.back().style = svg::Series::Style::thin;
    if (evaluations.empty()) continue;
    svg::Series train{"train", {}, {}, 2, svg::Series::Style::dashed};
    svg::Series val{of_run(runs, i, "val"), {}, {}, one ? 1 : i, svg::Series::Style::dotted};
    for (const EvaluationRecord& e : evaluations)
      for (auto* s : {&train, &val}) {
        s->x.push_back(static_cast<double>(e.step));
        s->y.push_back(s == &train ? e.train : e.val);
      }
    if (one) chart.series.push_back(train);
    chart.series.push_back(val);
  }
  if (const auto& run = runs.front().metrics.run)
    for (const auto& [name, loss] : run->baselines)
      if (std::isfinite(loss)) chart.marks.emplace_back(loss, name + " " + svg::number(loss, "%.3f"));
  return svg::draw_wide(chart);
}

inline std::string thousands(double x) {
  return std::abs(x) < 1000 ? svg::number(x) : svg::number(x / 1000) + "k";
}
// A small chart of one value of step records, of all runs.
template <class F>
std::string chart_of(const std::vector<Run>& runs, svg::Chart chart, F&& value) {
  chart.x_name = "step", chart.end = end_of(runs);
  for (std::size_t i = 0; i < runs.size(); ++i)
    chart.series.push_back(means(runs[i], runs.size() == 1 ? "" : runs[i].name, i, value));
  return svg::draw(chart);
}

inline std::string training_charts(const std::vector<Run>& runs) {
  std::string text = chart_of(runs, {.title = "Learning rate", .unit = "", .x_name = "", .least = 0},
                              [](const StepRecord& r) { return r.learning_rate; });
  text +=
      chart_of(runs, {.title = "Norm of the gradient", .unit = "before clipping", .x_name = "", .least = 0},
               [](const StepRecord& r) { return r.gradient_norm; });
  text += chart_of(
      runs, {.title = "Speed", .unit = "tokens per second", .x_name = "", .least = 0, .text = thousands},
      [](const StepRecord& r) { return r.tokens_per_second > 0 ? r.tokens_per_second : NAN; });
  return page::grid(text);
}

inline bool has_experts(const std::vector<Run>& runs) {
  return std::any_of(runs.begin(), runs.end(), [](const Run& run) {
    return std::any_of(run.metrics.steps.begin(), run.metrics.steps.end(),
                       [](const StepRecord& r) { return !r.layers.empty(); });
  });
}
inline std::string expert_charts(const std::vector<Run>& runs) {
  const auto worst = [](auto member) {
    return [member](const StepRecord& r) { return r.layers.empty() ? NAN : member(worst_of(r.layers)); };
  };
  std::string text = chart_of(
      runs,
      {.title = "Largest load over the mean", .unit = "worst layer; balanced: 1", .x_name = "", .least = 1},
      worst([](const ExpertHealth& h) { return h.max_over_mean; }));
  text += chart_of(
      runs,
      {.title = "Entropy of the load / ln E", .unit = "worst layer; balanced: 1", .x_name = "", .most = 1},
      worst([](const ExpertHealth& h) { return h.entropy; }));
  text += chart_of(runs,
                   {.title = "Experts without tokens",
                    .unit = "worst layer",
                    .x_name = "",
                    .least = 0,
                    .most = 1,
                    .whole = true},
                   worst([](const ExpertHealth& h) { return static_cast<double>(h.dead); }));
  bool drops = false;
  for (const Run& run : runs)
    for (const StepRecord& r : run.metrics.steps) drops = drops || worst_of(r.layers).dropped > 0;
  if (drops)
    text +=
        chart_of(runs, {.title = "Dropped pairs", .unit = "percent, worst layer", .x_name = "", .least = 0},
                 worst([](const ExpertHealth& h) { return 100 * h.dropped; }));
  return page::grid(text);
}

// The charts of a run as a table of means over intervals, which needs no pointer.
inline std::string values_table(const Run& run) {
  const auto& steps = run.metrics.steps;
  if (steps.empty()) return {};
  const bool experts = !steps.front().layers.empty();
  std::vector<std::vector<std::string>> rows{{"steps", "loss", "learning rate", "gradient", "tokens/s"}};
  if (experts) rows[0].insert(rows[0].end(), {"load / mean", "entropy", "dead", "dropped"});
  const std::size_t parts = std::min<std::size_t>(12, steps.size());
  for (std::size_t p = 0; p < parts; ++p) {
    const std::size_t from = p * steps.size() / parts, to = (p + 1) * steps.size() / parts;
    const auto mean = [&](const char* format, auto&& value) {
      double sum = 0;
      for (std::size_t i = from; i < to; ++i) sum += value(steps[i]) / static_cast<double>(to - from);
      return std::isfinite(sum) ? svg::number(sum, format) : "not finite";
    };
    std::vector<std::string>& row = rows.emplace_back();
    row.push_back(whole(steps[from].step) + " \u2013 " + whole(steps[to - 1].step));
    row.push_back(mean("%.4f", [](const StepRecord& r) { return r.loss; }));
    row.push_back(mean("%.2g", [](const StepRecord& r) { return r.learning_rate; }));
    row.push_back(mean("%.3g", [](const StepRecord& r) { return r.gradient_norm; }));
    row.push_back(mean("%.0f", [](const StepRecord& r) { return r.tokens_per_second; }));
    if (!experts) continue;
    row.push_back(mean("%.2f", [](const StepRecord& r) { return worst_of(r.layers).max_over_mean; }));
    row.push_back(mean("%.3f", [](const StepRecord& r) { return worst_of(r.layers).entropy; }));
    row.push_back(mean("%.2f", [](const StepRecord& r) { return 1.0 * worst_of(r.layers).dead; }));
    row.push_back(mean("%.1f %%", [](const StepRecord& r) { return 100 * worst_of(r.layers).dropped; }));
  }
  return page::table(rows);
}

// Share of each expert of each layer in the load, over intervals of the run.
inline std::string table_of(const svg::Heatmap& map) {
  const std::size_t E = map.rows.size(), frames = map.cols.size(), parts = std::min<std::size_t>(6, frames);
  std::vector<std::vector<std::string>> rows{{"steps"}};
  for (std::size_t p = 0; p < parts; ++p)
    rows[0].push_back(map.from[p * frames / parts] + " \u2013 " + map.to[(p + 1) * frames / parts - 1]);
  for (std::size_t e = 0; e < E; ++e) {
    rows.push_back({"expert " + std::to_string(e)});
    for (std::size_t p = 0; p < parts; ++p) {
      const std::size_t from = p * frames / parts, to = (p + 1) * frames / parts;
      double mean = 0;
      for (std::size_t f = from; f < to; ++f)
        mean += map.value[e * frames + f] / static_cast<double>(to - from);
      rows.back().push_back(svg::number(mean, "%.1f %%"));
    }
  }
  return page::table(rows);
}
inline std::string load_maps(const Run& run) {
  const auto& steps = run.metrics.steps;
  const auto first =
      std::find_if(steps.begin(), steps.end(), [](const StepRecord& r) { return !r.layers.empty(); });
  if (first == steps.end()) return {};
  const std::size_t layers = first->layers.size(), frames = std::min<std::size_t>(72, steps.size());
  std::vector<svg::Heatmap> maps;
  double most = 0;  // of all layers, so that their colours can be compared
  for (std::size_t l = 0; l < layers; ++l) {
    const std::size_t E = first->layers[l].load.size();
    std::vector<double> share(E * frames), total(frames);
    for (std::size_t i = 0; i < steps.size(); ++i) {
      if (l >= steps[i].layers.size() || steps[i].layers[l].load.size() != E) continue;
      const std::size_t frame = i * frames / steps.size();
      for (std::size_t e = 0; e < E; ++e) {
        const auto load = static_cast<double>(steps[i].layers[l].load[e]);
        share[e * frames + frame] += load, total[frame] += load;
      }
    }
    most = std::max(most, 2.0 / static_cast<double>(E));
    for (std::size_t e = 0; e < E; ++e)
      for (std::size_t f = 0; f < frames; ++f) {
        double& s = share[e * frames + f];
        s = total[f] > 0 ? s / total[f] : 0;
        most = std::max(most, s);
        s *= 100;
      }
    svg::Heatmap map{.title = "Layer " + std::to_string(first->layers[l].layer),
                     .row_name = "expert",
                     .col_name = "step",
                     .cols = std::vector<std::string>(frames),
                     .value = std::move(share),
                     .mark = 100.0 / static_cast<double>(E),
                     .mark_name = "even share, " + svg::number(100.0 / static_cast<double>(E), "%.1f %%"),
                     .unit = " %",
                     .cell_height = std::clamp(180.0 / static_cast<double>(E), 4.0, 22.0),
                     .left = 50};
    for (std::size_t e = 0; e < E; ++e) map.rows.push_back(E <= 16 || e % 8 == 0 ? std::to_string(e) : "");
    for (std::size_t quarter = 0; quarter <= 4; ++quarter) {
      const std::size_t f = std::min(frames - 1, quarter * frames / 4);
      map.cols[f] = std::to_string(steps[std::min(steps.size() - 1, f * steps.size() / frames)].step);
    }
    map.cols[frames - 1] = std::to_string(steps.back().step);
    for (std::size_t f = 0; f < frames; ++f)
      map.from.push_back(whole(steps[f * steps.size() / frames].step)),
          map.to.push_back(whole(steps[(f + 1) * steps.size() / frames - 1].step));
    if (frames < 8) std::fill(map.cols.begin() + 1, map.cols.end() - (frames > 1 ? 1 : 0), "");
    maps.push_back(std::move(map));
  }
  std::string text;
  for (svg::Heatmap& map : maps) map.top = 100 * most, text += svg::draw(map);
  text = page::grid(text);
  std::string tables;
  for (const svg::Heatmap& map : maps) ((tables += "<h3>") += map.title) += "</h3>\n" + table_of(map);
  return text + page::details("The same as tables", tables);
}

inline std::string swatch(const std::vector<Run>& runs, std::size_t i) {
  return runs.size() == 1 ? std::string() : "<span class=\"swatch " + svg::line_class(i) + "\"></span>";
}

inline std::string tiles(const Run& run) {
  const Metrics& m = run.metrics;
  std::string text = "<div class=\"tiles\">\n";
  const auto tile = [&](const std::string& figure, const std::string& words) {
    text += "<div class=\"tile\"><b>" + page::escaped(figure) + "</b><span>" + page::escaped(words) +
            "</span></div>\n";
  };
  if (const EvaluationRecord* best = best_of(run))
    tile(svg::number(best->val, "%.4f"), "best val loss, step " + whole(best->step));
  if (m.final_loss)
    tile(svg::number(m.final_loss->val, "%.4f"),
         "val loss at the end, of " + (m.final_loss->batches > 0 ? whole(m.final_loss->batches) + " batches"
                                                                 : std::string("the whole validation text")));
  if (!m.evaluations.empty())
    tile(svg::number(m.evaluations.back().train, "%.4f"),
         "train loss at step " + whole(m.evaluations.back().step));
  if (m.run)
    tile(short_number(static_cast<double>(m.run->parameters)),
         "weights, " + short_number(m.run->active) + " active for a token");
  if (!m.steps.empty()) {
    const StepRecord& last = m.steps.back();
    tile(whole(last.step),
         "steps" + (m.run && m.run->steps > last.step ? " of " + whole(m.run->steps) : std::string()) + ", " +
             short_number(static_cast<double>(last.tokens)) + " tokens");
    tile(short_number(last.tokens_per_second),
         "tokens per second" + (last.utilisation > 0
                                    ? ", " + svg::number(100 * last.utilisation, "%.0f %% of peak")
                                    : std::string()));
    if (m.run && last.time > m.run->time && m.run->step == 0)
      tile(clock_time(last.time - m.run->time), "from first to last record");
    if (!last.layers.empty()) {
      const ExpertHealth h = worst_of(last.layers);
      tile(svg::number(h.max_over_mean, "%.2f"), "largest load over the mean; " + std::to_string(h.dead) +
                                                     " of " + std::to_string(h.experts) + " experts dead");
    }
  }
  return text + "</div>\n";
}
inline std::string table_of_runs(const std::vector<Run>& runs) {
  std::vector<std::vector<std::string>> rows{
      {"run", "steps", "best val", "at step", "last train", "weights", "active", "tokens/s"}};
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const Metrics& m = runs[i].metrics;
    const EvaluationRecord* best = best_of(runs[i]);
    rows.push_back({swatch(runs, i) + page::escaped(runs[i].name), whole(last_step(runs[i])),
                    best ? svg::number(best->val, "%.4f") : "", best ? whole(best->step) : "",
                    m.evaluations.empty() ? "" : svg::number(m.evaluations.back().train, "%.4f"),
                    m.run ? short_number(static_cast<double>(m.run->parameters)) : "",
                    m.run ? short_number(m.run->active) : "",
                    m.steps.empty() ? "" : short_number(m.steps.back().tokens_per_second)});
  }
  return page::table(rows);
}

inline std::string samples(const Run& run) {
  std::string text;
  const auto& all = run.metrics.samples;
  for (std::size_t i = all.size(); i-- > 0;)
    text += page::details("step " + whole(all[i].step), "<pre>" + page::escaped(all[i].text) + "</pre>\n",
                          i + 1 == all.size());
  return text;
}
inline std::string about(const Run& run) {
  std::string text;
  if (const auto& r = run.metrics.run) {
    std::vector<std::vector<std::string>> rows{
        {"option", "value"}, {"model", "<span class=\"type\">" + page::escaped(r->model) + "</span>"}};
    for (const auto& [name, value] : r->options) rows.push_back({page::escaped(name), page::escaped(value)});
    if (r->peak > 0) rows.push_back({"measured peak", svg::number(1e-9 * r->peak, "%.0f GFLOP/s")});
    text += page::table(rows, "words");
  }
  std::vector<std::vector<std::string>> rows{{"step", "event", ""}};
  for (const EventRecord& e : run.metrics.events)
    rows.push_back({whole(e.step), page::escaped(e.what), page::escaped(e.text)});
  if (rows.size() > 1) text += page::details("Events", page::table(rows, "words"), rows.size() < 12);
  std::vector<std::vector<std::string>> losses{{"step", "train", "val"}};
  for (const EvaluationRecord& e : run.metrics.evaluations)
    losses.push_back(
        {whole(e.step), svg::number(e.train, "%.4f"), svg::number(e.val, "%.4f") + (e.best ? " *" : "")});
  if (losses.size() > 1)
    text += page::details("Evaluations as a table (*: best so far)", page::table(losses));
  return text;
}

// content(run) of each run; under its name if there are several, and then only the first is open.
template <class F>
std::string each_run(const std::vector<Run>& runs, F&& content) {
  std::string text;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const std::string one = content(i);
    if (one.empty()) continue;
    text += runs.size() == 1 ? one
                             : page::details("<h3>" + swatch(runs, i) + page::escaped(runs[i].name) + "</h3>",
                                             one, i == 0);
  }
  return text;
}

// runs: at least one.
inline std::string html(const std::vector<Run>& runs) {
  const bool one = runs.size() == 1;
  const std::string title = one ? runs[0].name : std::to_string(runs.size()) + " training runs";
  std::string text = "<h1>" + page::escaped(title) + "</h1>\n";
  if (one) {
    if (const auto& run = runs[0].metrics.run)
      text += "<p class=\"type\">" + page::escaped(run->model) + "</p>\n";
    text += tiles(runs[0]);
  } else {
    text += table_of_runs(runs);
  }
  if (std::any_of(runs.begin(), runs.end(), [](const Run& run) { return run.metrics.torn; }))
    text += "<p class=\"soft\">The last line of a log is incomplete and is not shown.</p>\n";
  text += page::section(
      "Loss",
      one ? "Mean cross-entropy. <em>batches</em>: of the training steps, as means with their range; "
            "<em>train</em> and <em>val</em>: estimated on random batches of both parts of the text. "
            "Dashed in red: what simpler models reach."
          : "Mean cross-entropy of the training steps (lines with their range) and on the validation "
            "text (dots). Dashed in red: what simpler models reach on the text of the first run.",
      loss_chart(runs));
  text += page::section("Training", "", training_charts(runs));
  const std::string values = each_run(runs, [&](std::size_t i) { return values_table(runs[i]); });
  if (!values.empty()) text += page::details("The curves as a table: means over parts of the run", values);
  std::string rules;
  if (has_experts(runs)) {
    text += page::section("Health of the experts",
                          "Each of the layer that is worst in this respect. Balanced layers stay near 1; "
                          "an expert without tokens learns nothing.",
                          expert_charts(runs));
    text += page::section(
        "Load of the experts",
        "Percent of a layer's work that goes to each expert, while the model learns. Rows alike: balance. "
        "One strong row among weak ones: collapse.",
        each_run(runs, [&](std::size_t i) { return load_maps(runs[i]); }));
  }
  std::vector<int> expert_counts;
  const std::string routed = each_run(runs, [&](std::size_t i) -> std::string {
    if (!runs[i].routing) return {};
    const std::string id = "r" + std::to_string(i);
    if (routed_text::can_show(*runs[i].routing)) {
      rules += routed_text::style(*runs[i].routing, id);
      for (const auto& layer : runs[i].routing->layers)
        if (std::find(expert_counts.begin(), expert_counts.end(), layer.experts) == expert_counts.end())
          expert_counts.push_back(layer.experts);
    }
    return routed_text::html(*runs[i].routing, id);
  });
  if (!routed.empty())
    text += page::section(
        "Which expert takes which character",
        "Validation text. The ground of a character has the colour of its first expert, the line below it "
        "that of its second. Choose a layer, and an expert to see only what it takes. Hovering shows all "
        "gates, and so does the table below.",
        routed);
  const std::string written = each_run(runs, [&](std::size_t i) { return samples(runs[i]); });
  if (!written.empty()) text += page::section("Samples", "What the model writes.", written);
  text += page::section("About", "", each_run(runs, [&](std::size_t i) { return about(runs[i]); }));
  return page::whole(
      title, text,
      routed.empty() ? "" : routed_text::colours(expert_counts) + routed_text::common_style + rules);
}

}  // namespace report_page
