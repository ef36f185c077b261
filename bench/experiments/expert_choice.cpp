// Expert choice and top-2 token choice at equal compute, by the number of experts (Zhou et al. 2022): the
// loss at the end, the steps to a loss, and the experts of a token by the loss of that token. An encoder with
// full attention predicts masked characters of the synthetic corpus; with both rules a token has two experts
// on average. A seed sets weights, batches and masks.
//     expert_choice [--steps 2000] [--seeds 3] [--jobs 1] [--report]
#include "../support/language_run.hpp"

#include "../support/figure.hpp"

using namespace bench;

namespace {

constexpr int vocab = 128, mask_id = 127;  // the corpus is ASCII without character 127
constexpr int every = 50, evaluated = 20;  // steps; batches
constexpr int experts[] = {4, 8, 16, 32};
constexpr Config config{.vocab = vocab,
                        .context = 64,
                        .dim = 64,
                        .layers = 2,
                        .heads = 4,
                        .hidden = 128,
                        .mask = Mask::full,
                        .positions = Positions::rotary};

// One in seven characters is masked; only these are targets.
void hide(Batch& batch, Key key) {
  Rng rng(key);
  for (std::size_t n = 0; n < batch.inputs.size(); ++n) {
    const bool hidden = rng.below(7) == 0;
    batch.targets[n] = hidden ? batch.inputs[n] : -1;
    if (hidden) batch.inputs[n] = mask_id;
  }
}

// The same masked windows for every rule and seed.
void evaluation_batch(const Texts& texts, Batch& batch, int i) {
  sample_batch(texts.val, batch, Key{1}.with(Purpose::evaluation, i));
  hide(batch, Key{2}.with(Purpose::evaluation, i));
}

// Mean number of experts of a layer for the masked tokens, in five groups of equal size by their loss, and
// the mean loss of each group. Four times the batches of an evaluation.
template <class Model>
Record experts_by_loss(const Model& model, const Texts& texts, typename Model::Workspace& work) {
  struct Token {
    float loss;
    double experts;
  };
  std::vector<Token> tokens;
  Batch batch{work.shape};
  std::vector<float> loss(static_cast<std::size_t>(work.shape.tokens())), lse(loss.size());
  for (int i = 0; i < 4 * evaluated; ++i) {
    evaluation_batch(texts, batch, i);
    model.forward(batch, work);
    kernels::cross_entropies<float>(work.exec, work.tape.head.logits, batch.targets.data(), loss.data(),
                                    lse.data());
    std::vector<double> count(loss.size());
    for_each_mixture(model, work, [&](int, const auto&, const auto& tape) {
      for (Index slot = 0; slot < tape.plan.slot_count(); ++slot)
        count[static_cast<std::size_t>(tape.plan.token[slot])] += 1.0 / config.layers;
    });
    for (std::size_t n = 0; n < loss.size(); ++n)
      if (batch.targets[n] >= 0) tokens.push_back({loss[n], count[n]});
  }
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const Token& a, const Token& b) { return a.loss < b.loss; });
  Record groups = Record::array();
  constexpr std::size_t parts = 5;
  for (std::size_t p = 0; p < parts; ++p) {
    double mean_loss = 0, mean_experts = 0;
    const std::size_t from = p * tokens.size() / parts, to = (p + 1) * tokens.size() / parts;
    for (std::size_t n = from; n < to; ++n) {
      mean_loss += tokens[n].loss / static_cast<double>(to - from);
      mean_experts += tokens[n].experts / static_cast<double>(to - from);
    }
    groups.push_back({mean_loss, mean_experts});
  }
  return groups;
}

struct Setup {
  SweepOptions sweep;
  long steps = 2000;
};

template <class Recipe>
Record train(const Setup& setup, const Texts& texts, std::uint64_t number, double balance,
             const Progress& show) {
  using Model = GPT<config, Recipe>;
  const Key seed{number};
  const Shape shape{16, 64};
  auto model = std::make_unique<Model>(), grad = std::make_unique<Model>();
  init(*model, seed, Init::makemoe);
  Adam<Model> adam{{.learning_rate = 5e-3}};
  typename Model::Workspace work{shape, Exec{.threads = 1}, {.balance = balance}};
  const WarmupCosine schedule{
      .peak = 5e-3, .minimum = 5e-4, .warmup = std::min(50L, setup.steps / 10), .steps = setup.steps};
  Batch batch{shape};
  Record losses = Record::array();
  double seconds = 0;
  for (long step = 0; step <= setup.steps; ++step) {
    if (step % every == 0) {
      double total = 0;
      for (int i = 0; i < evaluated; ++i) {
        evaluation_batch(texts, batch, i);
        total += model->forward(batch, work).cross_entropy / evaluated;
      }
      losses.push_back(total);
      show(static_cast<double>(step) / static_cast<double>(setup.steps), total);
    }
    if (step == setup.steps) break;
    const double begin = cpu_seconds();
    sample_batch(texts.train, batch, seed.with(Purpose::batch, step));
    hide(batch, seed.with(Purpose::sampling, step));
    model->forward(batch, work, seed.with(Purpose::step, step));
    set_zero(*grad, work.exec);
    model->backward(batch, work, *grad);
    const double norm = global_norm(*grad, work.exec);
    adam.options.learning_rate = schedule(step);
    adam.step(*model, *grad, work.exec, clip_scale(norm, 1));
    seconds += cpu_seconds() - begin;
  }
  return {{"weights", count_weights(*model)},
          {"seconds", std::round(100 * seconds) / 100},
          {"val", losses.back()},
          {"experts_by_loss", experts_by_loss(*model, texts, work)},
          {"losses", losses}};
}

template <int E>
void add_cells(std::vector<Cell>& all, const Setup& setup, const std::function<const Texts&()>& load) {
  // The same FLOPs: two experts of a token on average; a router's share grows with E.
  const double flops = static_cast<double>(setup.steps) * (1 + E / 64.0);
  const auto key = [&](const char* rule) {
    return Record{{"rule", rule}, {"experts", E}, {"steps", setup.steps}};
  };
  const std::string name = std::to_string(E) + " experts, ";
  all.push_back({name + "top-2", key("top-2"), flops, [=](std::uint64_t seed, const Progress& show) {
                   return train<TopKRouter<E, 2>>(setup, load(), seed, 0.01, show);
                 }});
  all.push_back(
      {name + "expert choice", key("expert choice"), flops, [=](std::uint64_t seed, const Progress& show) {
         return train<ExpertChoiceRouter<E, 2>>(setup, load(), seed, 0, show);
       }});
}

// Steps until a loss is at most `target`; -1: never.
int steps_to(const Record& run, double target) {
  for (std::size_t i = 0; i < run["losses"].size(); ++i)
    if (run["losses"][i].get<double>() <= target) return static_cast<int>(i) * every;
  return -1;
}

void report(const Setup& s, const Records& records) {
  const auto runs = [&](const char* rule, int E) {
    return records.where({{"rule", rule}, {"experts", E}, {"steps", s.steps}});
  };
  char row[300];
  std::string text =
      "| experts | seeds | top-2, nats per masked character | expert choice | difference of pairs | steps of "
      "top-2 to "
      "its last loss | steps of expert choice to the same loss |\n|---|---|---|---|---|---|---|\n";
  Figure by_experts{
      .title = "Masked loss by number of experts",
      .x = {.name = "experts E; a token has two on average", .logarithmic = true, .ticks = {4, 8, 16, 32}},
      .y = {.name = "loss at the end, nats per masked character; points: seeds, lines: means"}};
  Figure by_loss{.title = "Experts of a token by its loss",
                 .x = {.name = "mean loss of a fifth of the masked tokens, nats; after training"},
                 .y = {.name = "experts of a token, mean of layers and seeds"}};
  Figure::Series mean[2], points[2];
  for (std::size_t r : {0u, 1u}) {
    mean[r] = {.name = r == 0 ? "top-2" : "expert choice", .colour = r, .draw = Figure::Draw::line};
    points[r] = {.name = "", .colour = r, .draw = Figure::Draw::points};
  }
  by_loss.series.push_back({.name = "top-2", .colour = 4, .draw = Figure::Draw::dashed});
  std::string table =
      "\n| experts | fifth of the masked tokens, by loss | mean loss, nats | experts of a token |\n"
      "|---|---|---|---|\n";
  for (std::size_t e = 0; e < std::size(experts); ++e) {
    const int E = experts[e];
    const auto top = runs("top-2", E), choice = runs("expert choice", E);
    if (top.empty() || choice.empty()) continue;
    std::vector<double> differences, top_steps, choice_steps;
    for (const Record& a : top)
      for (const Record& b : choice)
        if (a["seed"] == b["seed"]) {
          const double target = a["val"].get<double>();
          differences.push_back(b["val"].get<double>() - target);
          top_steps.push_back(steps_to(a, target));
          choice_steps.push_back(steps_to(b, target));
        }
    std::snprintf(row, sizeof row, "| %d | %d | ", E, static_cast<int>(differences.size()));
    (text += row) += with_interval(Sample(top, "val"));
    (text += " | ") += with_interval(Sample(choice, "val"));
    (text += " | ") += with_interval(Sample(differences));
    const bool reached = std::find(choice_steps.begin(), choice_steps.end(), -1) == choice_steps.end();
    if (differences.empty()) {
      text += " | | |\n";
    } else {
      std::snprintf(row, sizeof row, " | %.0f | ", Sample(top_steps).mean());
      text += row;
      std::snprintf(row, sizeof row, "%.0f |\n", Sample(choice_steps).mean());
      text += reached ? row : "not by every seed |\n";
    }
    for (const auto& [r, of] : {std::pair{0u, &top}, {1u, &choice}}) {
      mean[r].points.emplace_back(E, Sample(*of, "val").mean());
      for (const Record& run : *of) points[r].points.emplace_back(E, run["val"].get<double>());
    }
    Figure::Series groups{.name = "expert choice, E = " + std::to_string(E), .colour = e};
    for (std::size_t p = 0; p < choice[0]["experts_by_loss"].size(); ++p) {
      std::vector<double> loss, count;
      for (const Record& run : choice) {
        loss.push_back(run["experts_by_loss"][p][0].get<double>());
        count.push_back(run["experts_by_loss"][p][1].get<double>());
      }
      groups.points.emplace_back(Sample(loss).mean(), Sample(count).mean());
      std::snprintf(row, sizeof row, "| %d | %d | %.3f | ", E, static_cast<int>(p + 1), Sample(loss).mean());
      ((table += row) += with_interval(Sample(count), 2)) += " |\n";
    }
    by_loss.series.push_back(groups);
    auto& two = by_loss.series[0].points;  // top-2: two for every token
    for (const auto& point : {groups.points.front(), groups.points.back()}) two.emplace_back(point.first, 2);
    std::sort(two.begin(), two.end());
    two = {two.front(), two.back()};
  }
  for (const std::size_t r : {0u, 1u}) {
    by_experts.series.push_back(mean[r]);
    by_experts.series.push_back(points[r]);
  }
  text += table;
  std::printf("%s", text.c_str());
  write_file(std::filesystem::path(s.sweep.folder) / "expert_choice.svg", draw(by_experts));
  write_file(std::filesystem::path(s.sweep.folder) / "expert_choice_tokens.svg", draw(by_loss));
  write_between(s.sweep.document, "expert_choice", text);
}

void start(const Setup& s) {
  Records records(std::filesystem::path(s.sweep.folder) / "expert_choice.jsonl");
  Texts texts;
  if (!s.sweep.report) {
    Corpus corpus = split_corpus(Dialects{}.generate(1000000, Key{7}).text, Tokenizer::bytes());
    texts = {std::move(corpus.train), std::move(corpus.val)};
    const auto load = [&]() -> const Texts& { return texts; };
    std::vector<Cell> cells;
    add_cells<4>(cells, s, load), add_cells<8>(cells, s, load);
    add_cells<16>(cells, s, load), add_cells<32>(cells, s, load);
    sweep(records, cells, s.sweep);
  }
  report(s, records);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Does expert choice learn more than top-2 as the number of experts grows?", "expert_choice");
  Setup s;
  add_options(app, s.sweep);
  app.add_option("--steps", s.steps, "Training steps of each run (default 2000)")->check(options::whole(100));
  return options::run(app, argc, argv, [&] { start(s); });
}
