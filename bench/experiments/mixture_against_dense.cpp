// Mixture against dense at equal compute (after Artetxe et al. 2021): loss against training FLOPs for dense
// models and for mixtures of 16 experts of which one is active, in the domain of the training text and in
// another; the factor of FLOPs that a mixture saves at equal loss, the ratio of weights that it costs, and
// CPU seconds.
//     mixture_against_dense [--tokens 1000000] [--seeds 3] [--jobs 1] [--report]
#include "../support/scaling_models.hpp"

#include "../support/figure.hpp"

using namespace bench;

namespace {

constexpr int experts = 16;
constexpr int dense_widths[] = {16, 32, 64, 96, 128, 192, 256}, mixture_widths[] = {16, 32, 64, 96, 128};

template <int Experts, int... Widths>
void add_cells(std::vector<Cell>& all, const ScalingOptions& o, const std::function<const Texts&()>& load) {
  (all.push_back(scaling_cell<Widths, Experts>(o, load)), ...);
}

// Means over seeds of the models of one kind, by width.
struct Model {
  int width = 0, seeds = 0;
  double flops = 0, weights = 0, seconds = 0, val = 0, other = 0;
};
std::vector<Model> models(const ScalingOptions& o, const Records& records, int E) {
  std::vector<Model> all;
  for (const int width : dense_widths) {
    const auto runs = records.where({{"width", width}, {"experts", E}, {"tokens", o.tokens}});
    if (runs.empty()) continue;
    all.push_back({width, static_cast<int>(runs.size()), runs[0]["flops"].get<double>(),
                   runs[0]["weights"].get<double>(), Sample(runs, "seconds").mean(),
                   Sample(runs, "val").mean(), Sample(runs, "other").mean()});
  }
  return all;
}

// The FLOPs, weights and seconds of a dense model of this loss: linear in the logarithms between two that
// were trained. None outside their range: nothing is extrapolated.
struct Equal {
  double flops, weights, seconds;
};
std::optional<Equal> dense_of_loss(const std::vector<Model>& dense, double Model::* loss, double target) {
  for (std::size_t i = 1; i < dense.size(); ++i) {
    const Model &a = dense[i - 1], &b = dense[i];
    if (a.*loss < target || b.*loss > target) continue;
    const double share = std::log(a.*loss / target) / std::log(a.*loss / (b.*loss));
    const auto between = [&](double x, double y) { return x * std::pow(y / x, share); };
    return Equal{between(a.flops, b.flops), between(a.weights, b.weights), between(a.seconds, b.seconds)};
  }
  return {};
}

// CPU seconds after which a run's loss within training is at most `target`; NaN: never.
double seconds_to(const Record& run, double target) {
  for (const Record& point : run["curve"])
    if (point[2].get<double>() <= target) return point[1].get<double>();
  return NAN;
}

void report(const ScalingOptions& o, const Records& records) {
  const auto dense = models(o, records, 1), mixtures = models(o, records, experts);
  char row[400];
  std::string text =
      "| model | width | seeds | weights | FLOPs of a run | CPU s | val, nats per character | other text |\n"
      "|---|---|---|---|---|---|---|---|\n";
  Figure in_domain{
      .title = "Mixture against dense at equal FLOPs",
      .x = {.name = "FLOPs of training", .logarithmic = true},
      .y = {.name = "validation loss, nats per character; points: seeds, lines: means", .logarithmic = true}};
  Figure other_text = in_domain;
  other_text.y.name = "loss on the other text, nats per character; points: seeds, lines: means";
  const auto add = [&](const char* name, const std::vector<Model>& all, int E) {
    Figure::Series val{.name = "", .colour = E == 1 ? 0u : 1u, .draw = Figure::Draw::points}, other = val;
    Figure::Series val_line{.name = name, .colour = val.colour, .draw = Figure::Draw::line},
        other_line = val_line;
    for (const Model& m : all) {
      const auto runs = records.where({{"width", m.width}, {"experts", E}, {"tokens", o.tokens}});
      std::snprintf(row, sizeof row, "| %s | %d | %d | %s | %s | %.1f | ", name, m.width, m.seeds,
                    short_count(m.weights).c_str(), short_count(m.flops).c_str(), m.seconds);
      (text += row) += with_interval(Sample(runs, "val"));
      (text += " | ") += with_interval(Sample(runs, "other"));
      text += " |\n";
      for (const Record& r : runs) {
        val.points.emplace_back(m.flops, r["val"].get<double>());
        other.points.emplace_back(m.flops, r["other"].get<double>());
      }
      val_line.points.emplace_back(m.flops, m.val), other_line.points.emplace_back(m.flops, m.other);
    }
    for (const auto& s : {val_line, val}) in_domain.series.push_back(s);
    for (const auto& s : {other_line, other}) other_text.series.push_back(s);
  };
  add("dense", dense, 1);
  add("16 experts, 1 active", mixtures, experts);

  text +=
      "\nAt equal loss: the dense model between two that were trained, linear in the logarithms. A line "
      "means "
      "that the loss is outside the range of the dense models.\n\n"
      "| mixture of width | loss | FLOPs of dense / mixture | CPU s of dense / mixture | weights of mixture "
      "/ "
      "dense |\n|---|---|---|---|---|\n";
  for (const auto& [name, loss] : {std::pair{"in domain", &Model::val}, {"other text", &Model::other}})
    for (const Model& m : mixtures) {
      const auto equal = dense_of_loss(dense, loss, m.*loss);
      std::snprintf(row, sizeof row, "| %d | %s %.4f | ", m.width, name, m.*loss);
      text += row;
      if (equal) {
        std::snprintf(row, sizeof row, "%.2f | %.2f | %.1f |\n", equal->flops / m.flops,
                      equal->seconds / m.seconds, m.weights / equal->weights);
        text += row;
      } else {
        text += "– | – | – |\n";
      }
    }

  text +=
      "\nOf the same width and seed: CPU seconds until the mixture's loss within training is the dense "
      "model's "
      "last one, over the seconds of the dense run.\n\n| width | seed | loss | CPU s, mixture / dense |\n"
      "|---|---|---|---|\n";
  for (const int width : mixture_widths)
    for (const Record& run : records.where({{"width", width}, {"experts", 1}, {"tokens", o.tokens}})) {
      const Record* mixture =
          records.find({{"width", width}, {"experts", experts}, {"tokens", o.tokens}, {"seed", run["seed"]}});
      if (!mixture) continue;
      const double target = run["curve"].back()[2].get<double>(), time = seconds_to(*mixture, target);
      std::snprintf(row, sizeof row, "| %d | %d | %.4f | ", width, run["seed"].get<int>(), target);
      text += row;
      std::snprintf(row, sizeof row, "%.2f |\n", time / run["seconds"].get<double>());
      text += std::isfinite(time) ? row : "not reached |\n";
    }
  std::printf("%s", text.c_str());
  const std::filesystem::path folder = o.sweep.folder;
  write_file(folder / "mixture_against_dense.svg", draw(in_domain));
  write_file(folder / "mixture_against_dense_other.svg", draw(other_text));
  write_between(o.sweep.document, "mixture_against_dense", text);
}

void start(const ScalingOptions& o) {
  const std::filesystem::path folder = o.sweep.folder;
  Records records(folder / "mixture_against_dense.jsonl");
  std::optional<Texts> texts;
  if (!o.sweep.report) {
    const Records others(folder / "scaling.jsonl");  // the same runs are not repeated
    for (const Record& r : others.all()) {
      const bool wanted = r["experts"] == 1 || r["experts"] == experts;
      const Record key{
          {"width", r["width"]}, {"experts", r["experts"]}, {"tokens", r["tokens"]}, {"seed", r["seed"]}};
      if (wanted && !records.has(key)) records.add(r);
    }
    texts = scaling_texts(o);
    const auto load = [&]() -> const Texts& { return *texts; };
    std::vector<Cell> cells;
    add_cells<1, 16, 32, 64, 96, 128, 192, 256>(cells, o, load);
    add_cells<experts, 16, 32, 64, 96, 128>(cells, o, load);
    sweep(records, cells, o.sweep);
  }
  report(o, records);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("How much compute does a mixture save, and what does it cost?", "mixture_against_dense");
  ScalingOptions o;
  add_options(app, o);
  return options::run(app, argc, argv, [&] { start(o); });
}
