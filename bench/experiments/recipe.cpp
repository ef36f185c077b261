// Which training configuration has the least loss on tiny Shakespeare for a budget of arithmetic? Every row
// gets the same FLOPs (model_flops). Rows are compared on the last tenth of the training part. --final trains
// a row on all of it, and reads the validation part once, in windows of at most 256 that do not overlap.
//     recipe [--petaflops 0.02] [--rows part of their names] [--final NAME] [--seeds 1] [--jobs 1]
// Ten minutes of two quiet cores at 300 GFLOP/s are 0.18 petaFLOPs.
#include "../support/language_run.hpp"

#include "../support/figure.hpp"

using namespace bench;

namespace {

struct Setup {
  SweepOptions sweep;
  double petaflops = 0.02;
  std::string data = "data/tinyshakespeare.txt", final;
};

constexpr Config wide(int context, int dim, int layers, int hidden) {
  return {.vocab = 96,
          .context = context,
          .dim = dim,
          .layers = layers,
          .heads = dim / 32,
          .hidden = hidden,
          .norm = Norm::rms,
          .positions = Positions::rotary,
          .activation = Activation::silu,
          .gated = true,
          .output_bias = false,
          .expert_bias = false};
}
constexpr Config normed(Config config) {
  config.query_key_norm = QueryKeyNorm::head;
  return config;
}
using Small = GPT<wide(128, 128, 4, 256), TopKRouter<8, 2>>;
using Long = GPT<wide(256, 128, 4, 256), TopKRouter<8, 2>>;
using LongOne = GPT<wide(256, 128, 4, 256), TopKRouter<8, 1>>;
using LongDense = GPT<wide(256, 128, 4, 512), Dense>;
using LongFour = GPT<wide(256, 128, 4, 256), TopKRouter<4, 2>>;
using LongNormed = GPT<normed(wide(256, 128, 4, 256)), TopKRouter<8, 2>>;
using Wide = GPT<wide(256, 192, 4, 384), TopKRouter<8, 2>>;
using Deep = GPT<wide(256, 128, 6, 256), TopKRouter<8, 2>>;

template <class Model>
Cell cell(const Setup& setup, const std::string& name, TrainingPlan plan,
          const std::function<const Texts&()>& load) {
  static const auto model = std::make_unique<Model>();
  plan.steps = std::max(20L, std::lround(1e15 * setup.petaflops / model_flops(*model, plan.batch)));
  return {.name = name,
          .key = {{"row", name}, {"petaflops", setup.petaflops}, {"final", !setup.final.empty()}},
          .flops = 1e15 * setup.petaflops,
          .run = [=](std::uint64_t seed, const Progress& show) {
            Record record = train<Model>(load(), plan, seed, show);
            record["steps"] = plan.steps;
            record["batch"] = plan.batch.batch;
            record["length"] = plan.batch.length;
            return record;
          }};
}

std::vector<Cell> cells(const Setup& s, const std::function<const Texts&()>& load) {
  const TrainingPlan small{.batch = {8, 128}, .final_rate = 1e-4, .warmup = 50, .dropout = 0.1};
  const TrainingPlan base{.batch = {4, 256}, .dropout = 0.1, .mean_decay = 0.998};
  const auto with = [&](auto change) {
    TrainingPlan plan = base;
    change(plan);
    return plan;
  };
  return {
      cell<Long>(s, "context 256", base, load),
      cell<Long>(s, "batch 2", with([](auto& p) { p.batch.batch = 2; }), load),
      cell<LongOne>(s, "1 active expert", base, load),
      cell<Long>(s, "dropout 0", with([](auto& p) { p.dropout = 0; }), load),
      cell<LongNormed>(s, "norms of queries and keys", base, load),
      cell<Long>(s, "learning rate 0.005", with([](auto& p) { p.learning_rate = 5e-3; }), load),
      cell<Small>(s, "small, context 128", small, load),
      cell<LongDense>(s, "dense", base, load),
      cell<LongFour>(s, "4 experts", base, load),
      cell<Wide>(s, "width 192", with([](auto& p) { p.learning_rate = 2e-3; }), load),
      cell<Deep>(s, "6 layers", base, load),
      cell<Long>(s, "batch 8", with([](auto& p) { p.batch.batch = 8; }), load),
      cell<Long>(s, "learning rate 0.002", with([](auto& p) { p.learning_rate = 2e-3; }), load),
      cell<Long>(s, "dropout 0.1, of experts 0.3", with([](auto& p) { p.expert_dropout = 0.3; }), load),
      cell<Long>(s, "weight decay 0.3", with([](auto& p) { p.weight_decay = 0.3; }), load),
  };
}

Texts texts_of(const Setup& s) {
  const std::string text = read_text(s.data);
  Corpus corpus = split_corpus(text, Tokenizer::characters(text));
  if (!s.final.empty()) return {std::move(corpus.train), std::move(corpus.val)};
  std::vector<int>& train = corpus.train;
  const auto cut = static_cast<std::ptrdiff_t>(train.size() / 10 * 9);
  Texts texts{{}, {train.begin() + cut, train.end()}};
  train.resize(static_cast<std::size_t>(cut));
  texts.train = std::move(train);
  return texts;
}

void report(const Setup& s, const Records& records) {
  std::string text =
      "| row | petaFLOPs | trained on | seeds | steps | batch | weights | active | loss, nats per character "
      "| "
      "of the moving mean | training loss | CPU s |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n";
  Figure figure{.title = "Loss during training, by configuration",
                .x = {.name = "FLOPs", .logarithmic = true},
                .y = {.name = "loss on the last tenth of the training part, nats per character; first seed"}};
  std::vector<Record> seen;
  for (const Record& first : records.all()) {
    const Record key{{"row", first["row"]}, {"petaflops", first["petaflops"]}, {"final", first["final"]}};
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) continue;
    seen.push_back(key);
    const auto runs = records.where(key);
    const bool all = first["final"].get<bool>();
    char row[400];
    std::snprintf(row, sizeof row, "| %s | %.4g | %s | %d | %ld | %d x %d | %s | %s | ",
                  first["row"].get<std::string>().c_str(), first["petaflops"].get<double>(),
                  all ? "all; validation part read" : "first nine tenths", static_cast<int>(runs.size()),
                  first["steps"].get<long>(), first["batch"].get<int>(), first["length"].get<int>(),
                  short_count(first["weights"].get<double>()).c_str(),
                  short_count(first["active"].get<double>()).c_str());
    (text += row) += with_interval(Sample(runs, "val"));
    text += " | ";
    if (first.contains("val_mean")) text += with_interval(Sample(runs, "val_mean"));
    std::snprintf(row, sizeof row, " | %.4f | %.0f |\n", Sample(runs, "train").mean(),
                  Sample(runs, "seconds").mean());
    text += row;
    if (all) continue;
    Figure::Series line{.name = first["row"].get<std::string>(), .colour = figure.series.size() % 6};
    for (const Record& point : first["curve"])
      line.points.emplace_back(first["flops"].get<double>() * point[0].get<double>() /
                                   static_cast<double>(first["steps"].get<long>()),
                               point[2].get<double>());
    if (figure.series.size() < 6) figure.series.push_back(line);
  }
  std::printf("%s", text.c_str());
  write_file(std::filesystem::path(s.sweep.folder) / "recipe.svg", draw(figure));
  write_between(s.sweep.document, "recipe", text);
}

void start(Setup s) {
  Records records(std::filesystem::path(s.sweep.folder) / "recipe.jsonl");
  std::optional<Texts> texts;
  if (!s.sweep.report) {
    texts = texts_of(s);
    std::vector<Cell> all = cells(s, [&]() -> const Texts& { return *texts; });
    if (!s.final.empty()) {
      std::erase_if(all, [&](const Cell& c) { return c.name != s.final; });
      check(!all.empty(), "no row is called '", s.final, "': give the whole name of one");
    }
    sweep(records, all, s.sweep);
  }
  report(s, records);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Which training configuration has the least loss on tiny Shakespeare?", "recipe");
  Setup s;
  s.sweep.seeds = 1;
  add_options(app, s.sweep);
  using namespace options;
  app.add_option("--petaflops", s.petaflops, "Arithmetic of each run in 10^15 FLOPs (default 0.02)")
      ->check(real(0, 1000, From::exclusive));
  app.add_option("--data", s.data, "The text (default data/tinyshakespeare.txt)")->check(file_name());
  app.add_option("--final", s.final,
                 "Trains this row on the whole training part and reads the validation part");
  return run(app, argc, argv, [&] { start(s); });
}
