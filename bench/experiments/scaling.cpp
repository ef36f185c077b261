// Loss by number of experts and width at equal tokens, and fits of scaling laws: log L = a log N + d for each
// number of experts, and the law of Clark et al. 2022 for all. One expert of E is active for a token.
//     scaling [--tokens 1000000] [--seeds 3] [--jobs 1] [--report]
#include "../support/scaling_models.hpp"

#include "../support/figure.hpp"
#include "../support/fits.hpp"

using namespace bench;

namespace {

constexpr int widths[] = {16, 32, 64, 128}, experts[] = {1, 2, 4, 8, 16, 32};

std::vector<Cell> cells(const ScalingOptions& o, const std::function<const Texts&()>& load) {
  std::vector<Cell> all;
  const auto of_width = [&]<int Width>(std::integral_constant<int, Width>) {
    for (Cell& cell : std::vector{scaling_cell<Width, 1>(o, load), scaling_cell<Width, 2>(o, load),
                                  scaling_cell<Width, 4>(o, load), scaling_cell<Width, 8>(o, load),
                                  scaling_cell<Width, 16>(o, load), scaling_cell<Width, 32>(o, load)})
      all.push_back(std::move(cell));
  };
  of_width(std::integral_constant<int, 16>{});
  of_width(std::integral_constant<int, 32>{});
  of_width(std::integral_constant<int, 64>{});
  of_width(std::integral_constant<int, 128>{});
  return all;
}

std::string text_of(const char* format, auto... values) {
  char text[400];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

void report(const ScalingOptions& o, const Records& records) {
  const auto runs = [&](int width, int E) {
    return records.where({{"width", width}, {"experts", E}, {"tokens", o.tokens}});
  };
  std::string text =
      "| width | experts | seeds | weights | active | FLOPs of a run | CPU s | val, nats per character | "
      "less "
      "dense, same seed | train | other text |\n|---|---|---|---|---|---|---|---|---|---|---|\n";
  std::vector<LossPoint> points;
  std::vector<std::vector<LossPoint>> of_experts(std::size(experts));
  Figure by_experts{
      .title = "Loss by number of experts",
      .x = {.name = "experts E, of which one is active", .logarithmic = true, .ticks = {1, 2, 4, 8, 16, 32}},
      .y = {.name = "validation loss, nats per character; points: seeds, lines: means, dashed: law of Clark "
                    "et al."}};
  Figure by_weights{
      .title = "Loss by active weights",
      .x = {.name = "weights per token of the dense model, without embedding and head", .logarithmic = true},
      .y = {.name = "validation loss, nats per character; points: seeds, dashed: power laws",
            .logarithmic = true}};
  std::vector<std::pair<int, double>> sizes;  // width, N
  for (const int width : widths) {
    const auto dense = runs(width, 1);
    if (dense.empty()) continue;
    const double N = inner_weights(dense[0]);
    sizes.emplace_back(width, N);
    Figure::Series seeds{
        .name = "width " + std::to_string(width), .colour = sizes.size() - 1, .draw = Figure::Draw::points};
    Figure::Series means{.name = "", .colour = seeds.colour, .draw = Figure::Draw::line};
    for (std::size_t e = 0; e < std::size(experts); ++e) {
      const auto found = runs(width, experts[e]);
      if (found.empty()) continue;
      const Sample val(found, "val");
      text += text_of("| %d | %d | %d | %s | %s | %s | %.1f | ", width, experts[e],
                      static_cast<int>(found.size()), short_count(found[0]["weights"].get<double>()).c_str(),
                      short_count(found[0]["active"].get<double>()).c_str(),
                      short_count(found[0]["flops"].get<double>()).c_str(), Sample(found, "seconds").mean());
      text += with_interval(val);
      std::vector<double> differences;  // from the dense model of the same seed
      for (const Record& run : found)
        for (const Record& other : dense)
          if (run["seed"] == other["seed"])
            differences.push_back(run["val"].get<double>() - other["val"].get<double>());
      text += " | ";
      text += experts[e] == 1 ? "" : with_interval(Sample(differences));
      text += text_of(" | %.4f | ", Sample(found, "train").mean());
      text += with_interval(Sample(found, "other")) + " |\n";
      points.push_back({N, static_cast<double>(experts[e]), val.mean()});
      of_experts[e].push_back(points.back());
      means.points.emplace_back(experts[e], val.mean());
      for (const double v : val.values) seeds.points.emplace_back(experts[e], v);
    }
    by_experts.series.push_back(seeds);
    by_experts.series.push_back(means);
  }
  text += "\n";
  text +=
      "Fits to means over seeds, in the logarithm of the loss. N: weights per token of the dense model of "
      "that "
      "width, without embedding and head.\n\n";
  text +=
      "| law | weights of the fit | points | root mean square residual | largest residual | range |\n"
      "|---|---|---|---|---|---|\n";
  const auto range = [&](const std::vector<LossPoint>& of) {
    double low = INFINITY, high = 0;
    for (const auto& p : of) low = std::min(low, p.weights), high = std::max(high, p.weights);
    return "N " + short_count(low) + " to " + short_count(high);
  };
  const auto row = [&](const std::string& law, const std::string& found, const auto& fitted, const auto& of) {
    const Residuals r = residuals_of(fitted, of);
    text += "| " + law + " | " + found +
            text_of(" | %d | %.2f %% | %.2f %% | ", static_cast<int>(of.size()), 100 * r.root_mean_square,
                    100 * r.largest) +
            range(of) + " |\n";
  };
  for (std::size_t e = 0; e < std::size(experts); ++e) {
    if (of_experts[e].size() < 3) continue;  // a fit of two points has no residual
    const PowerLaw law = fit_power_law(of_experts[e]);
    row("log L = a log N + d, E = " + std::to_string(experts[e]), text_of("a %.4f, d %.3f", law.a, law.d),
        law, of_experts[e]);
    Figure::Series line{.name = "", .colour = e, .draw = Figure::Draw::dashed},
        dots{.name = "E = " + std::to_string(experts[e]), .colour = e, .draw = Figure::Draw::points};
    for (const auto& [width, N] : sizes) {
      line.points.emplace_back(N, law(N));
      for (const Record& r : runs(width, experts[e])) dots.points.emplace_back(N, r["val"].get<double>());
    }
    by_weights.series.push_back(line);
    by_weights.series.push_back(dots);
  }
  if (points.size() >= 9) {
    const RoutedLaw law = fit_routed_law(points);
    row("log L = a log N + b log S + c log N log S + d",
        text_of("a %.4f, b %.4f, c %.5f, d %.3f; S from %.3g to %.3g", law.a, law.b, law.c, law.d, law.start,
                law.most),
        law, points);
    for (std::size_t s = 0; s < sizes.size(); ++s) {
      Figure::Series line{.name = "", .colour = s, .draw = Figure::Draw::dashed};
      for (double E = 1; E <= 32.01; E *= std::sqrt(2.0))
        line.points.emplace_back(E, law(sizes[s].second, E));
      by_experts.series.push_back(line);
    }
  }
  std::printf("%s", text.c_str());
  const std::string name =
      o.tokens == ScalingOptions{}.tokens ? "scaling" : "scaling_" + std::to_string(o.tokens);
  write_file(std::filesystem::path(o.sweep.folder) / (name + "_experts.svg"), draw(by_experts));
  write_file(std::filesystem::path(o.sweep.folder) / (name + "_weights.svg"), draw(by_weights));
  write_between(o.sweep.document, name, text);
}

void start(const ScalingOptions& o) {
  Records records(std::filesystem::path(o.sweep.folder) / "scaling.jsonl");
  std::optional<Texts> texts;
  if (!o.sweep.report) {
    texts = scaling_texts(o);
    sweep(records, cells(o, [&]() -> const Texts& { return *texts; }), o.sweep);
  }
  report(o, records);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("How does the loss depend on the number of experts and on the size?", "scaling");
  ScalingOptions o;
  add_options(app, o);
  return options::run(app, argc, argv, [&] { start(o); });
}
