// logging_cost DIR STEPS on|off: a training loop with all logs of every step, or without; logging_cost.sh
// counts the instructions of both. The model is makeMoE's, the batch a quarter of its recipe's: the cost of
// logs does not depend on the batch, so its share of a step is larger than in that recipe.
#include <moegpt/moegpt.hpp>
#include <moegpt/run/console.hpp>
#include <moegpt/run/metrics.hpp>
#include <moegpt/run/peak.hpp>
#include <moegpt/run/tensorboard.hpp>

#include <cstdio>

using namespace moegpt;

namespace {

using Model = presets::ModelOf<
    presets::makemoe<presets::Extents{.vocab = 65, .context = 32, .dim = 128, .layers = 8, .heads = 8}>>;

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::filesystem::path folder = argv[1];
  const Index steps = std::atol(argv[2]);
  const bool logs = std::string_view(argv[3]) == "on";

  const Key seed{1};
  Model model, grad;
  init(model, seed);
  Adam<Model> adam;
  const Objective objective{.balance = 0.01};
  model.options = presets::makemoe<>::options();
  Model::Workspace work{{4, 32}, Exec{1}, objective};
  Batch batch{work.shape};
  std::vector<int> tokens(5000);
  Rng rng(seed);
  for (int& id : tokens) id = static_cast<int>(rng.below(65));

  std::optional<MetricsFile> metrics;
  std::optional<EventFile> board;
  Console console({.redraws = true, .colour = true, .columns = 160}, steps, objective);
  if (logs)
    metrics.emplace(folder / "metrics.jsonl"), board.emplace(folder / "events.out.tfevents.moegpt", 0);
  const double flops = model_flops(model, work.shape), peak = 1e11;

  StepRecord record;
  Speed speed;
  for (Index step = 1; step <= steps; ++step) {
    const double start = seconds_now();
    sample_batch(tokens, batch, seed.with(Purpose::batch, step));
    const Loss loss = model.forward(batch, work, seed.with(Purpose::step, step));
    set_zero(grad, work.exec);
    model.backward(batch, work, grad);
    const double norm = global_norm(grad, work.exec);
    adam.step(model, grad, work.exec, clip_scale(norm, 1));
    if (!logs) continue;

    speed.add(seconds_now() - start, batch.shape.tokens());
    clear(record.layers);
    add_loads(model, work, record.layers);
    record.step = step, record.tokens += batch.shape.tokens();
    record.loss = loss.cross_entropy, record.router = loss;
    record.learning_rate = adam.options.learning_rate, record.gradient_norm = norm;
    record.seconds = speed.seconds_per_step(), record.tokens_per_second = speed.tokens_per_second();
    record.utilisation = flops / record.seconds / peak, record.time = seconds_since_1970();
    metrics->write(record);
    board->write(record);
    std::fputs(console.step(record, step % 50 == 0 ? Line::kept : Line::passing).c_str(), stderr);
  }
}
