// Byte pairs against characters at equal CPU time: a mixture with a vocabulary of 4,096 byte pairs, learned
// from the training part, and one of characters, both trained on the King James Bible. Losses are in nats per
// byte.
//     byte_pairs [--minutes 10] [--seeds 3] [--jobs 1] [--report]
#include "../support/language_run.hpp"

#include <moegpt/text/train_byte_pairs.hpp>

using namespace bench;

namespace {

constexpr int pairs = 4096;

template <int Vocab>
using Model = GPT<Config{.vocab = Vocab,
                         .context = 128,
                         .dim = 128,
                         .layers = 4,
                         .heads = 4,
                         .hidden = 256,
                         .norm = Norm::rms,
                         .positions = Positions::rotary,
                         .activation = Activation::silu,
                         .gated = true,
                         .output_bias = false,
                         .expert_bias = false,
                         .tied = true},
                  TopKRouter<8, 2>>;

struct Setup {
  SweepOptions sweep;
  double minutes = 10;
  std::string data = "data/bible.txt";
};

// Tokens of the two parts of the text, and the bytes of its second part.
struct Parts {
  Texts tokens;
  double val_bytes;
};
Parts parts_of(const std::string& train, const std::string& val, const Tokenizer& tokenizer) {
  return {{tokenizer.encode(train), tokenizer.encode(val)}, static_cast<double>(val.size())};
}

template <int Vocab>
Cell cell(const Setup& setup, const std::string& name, const std::function<const Parts&()>& load) {
  return {.name = name,
          .key = {{"tokens", name}, {"minutes", setup.minutes}},
          .flops = setup.minutes,
          .run = [=](std::uint64_t seed, const Progress& show) {
            const Parts& parts = load();
            TrainingPlan plan{.batch = {8, 128}, .dropout = 0.1};
            plan.steps = 40, plan.evaluations = 1;  // how long a step takes
            const Record trial = train<Model<Vocab>>(
                {parts.tokens.train, {parts.tokens.val.begin(), parts.tokens.val.begin() + 1000}}, plan, seed,
                [](double, double) {});
            plan.steps =
                std::max(100L, std::lround(setup.minutes * 60 * 40 / trial["seconds"].get<double>()));
            plan.evaluations = 16;
            Record record = train<Model<Vocab>>(parts.tokens, plan, seed, show);
            record["steps"] = plan.steps;
            record["bytes_per_token"] = parts.val_bytes / static_cast<double>(parts.tokens.val.size());
            record["val_per_byte"] = record["val"].get<double>() *
                                     static_cast<double>(parts.tokens.val.size() - 1) / parts.val_bytes;
            return record;
          }};
}

void report(const Setup& s, const Records& records) {
  std::string text =
      "| tokens | seeds | CPU s | steps | weights | active | FLOPs | bytes per token | val, nats per token | "
      "val, "
      "nats per byte |\n|---|---|---|---|---|---|---|---|---|---|\n";
  for (const char* name : {"characters", "byte pairs"}) {
    const auto runs = records.where({{"tokens", name}, {"minutes", s.minutes}});
    if (runs.empty()) continue;
    char row[300];
    std::snprintf(row, sizeof row, "| %s | %d | %.0f | %.0f | %s | %s | %s | %.2f | ", name,
                  static_cast<int>(runs.size()), Sample(runs, "seconds").mean(), Sample(runs, "steps").mean(),
                  short_count(runs[0]["weights"].get<double>()).c_str(),
                  short_count(runs[0]["active"].get<double>()).c_str(),
                  short_count(Sample(runs, "flops").mean()).c_str(), Sample(runs, "bytes_per_token").mean());
    (text += row) += with_interval(Sample(runs, "val"));
    ((text += " | ") += with_interval(Sample(runs, "val_per_byte"))) += " |\n";
  }
  std::printf("%s", text.c_str());
  write_between(s.sweep.document, "byte_pairs", text);
}

void start(const Setup& s) {
  Records records(std::filesystem::path(s.sweep.folder) / "byte_pairs.jsonl");
  if (!s.sweep.report) {
    const std::string text = read_text(s.data);
    const std::size_t cut = text.size() / 10 * 9;
    const std::string train = text.substr(0, cut), val = text.substr(cut);
    const Parts characters = parts_of(train, val, Tokenizer::characters(text));
    BytePairTrainer trainer({.vocab = pairs});
    trainer.add(train);
    const Parts learned = parts_of(train, val, Tokenizer::byte_pairs(trainer.train()));
    sweep(records,
          {cell<96>(s, "characters", [&]() -> const Parts& { return characters; }),
           cell<pairs>(s, "byte pairs", [&]() -> const Parts& { return learned; })},
          s.sweep);
  }
  report(s, records);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("What do byte pairs bring against characters at equal time?", "byte_pairs");
  Setup s;
  add_options(app, s.sweep);
  using namespace options;
  app.add_option("--minutes", s.minutes, "CPU time of each run (default 10)")
      ->check(real(0, 1e5, From::exclusive));
  app.add_option("--data", s.data, "The text (default data/bible.txt)")->check(file_name());
  return run(app, argc, argv, [&] { start(s); });
}
