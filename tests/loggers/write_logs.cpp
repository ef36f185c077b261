// write_logs DIR STEPS [KEEP]: writes metrics.jsonl and an event file of a run of STEPS steps; with KEEP,
// goes on with those in DIR after KEEP steps.
#include <moegpt/run/metrics.hpp>
#include <moegpt/run/tensorboard.hpp>

#include <cstdlib>

using namespace moegpt;

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const std::filesystem::path folder = argv[1];
  const Index steps = std::atol(argv[2]), keep = argc > 3 ? std::atol(argv[3]) : 0;
  const auto lines = folder / "metrics.jsonl", events = folder / "events.out.tfevents.moegpt";
  auto metrics = argc > 3 ? MetricsFile(lines, keep) : MetricsFile(lines);
  auto board = argc > 3 ? EventFile(events, 1, keep) : EventFile(events, 1);
  const auto write = [&](const auto& record) {
    if (!metrics.write(record) || !board.write(record)) std::exit(1);
  };
  if (argc == 3)
    write(RunRecord{.model = "GPT<...>",
                    .parameters = 1000,
                    .active = 600,
                    .steps = steps,
                    .unit = "character",
                    .options = {{"batch", "8"}, {"text", "caf\u00e9 <\"'&>"}},
                    .baselines = {{"uniform", 4.5}}});
  for (Index step = keep + 1; step <= steps; ++step) {
    const auto s = static_cast<double>(step);
    StepRecord r;
    r.step = step, r.tokens = 1024 * step, r.loss = 4.5 / s, r.time = 1000 + s;
    r.router.balance = 1 + 1 / s;
    r.learning_rate = 1e-3, r.gradient_norm = step == 3 ? NAN : 0.5 + 1 / s;
    r.layers = {{0, 80, {20, 20 - step, 20 + step, 20}}, {2, 80, {70, 0, 0, 0}}};
    r.tokens_per_second = 50000, r.utilisation = 0.25;
    write(r);
    if (step % 5 == 0) {
      write(EvaluationRecord{step, 4 / s, 4.25 / s, true, 1000 + s});
      write(SampleRecord{step, "First line of " + std::to_string(step) + "\n  <b>second</b>", 1000 + s});
      write(EventRecord{step, "checkpoint", "saved", 1000 + s});
    }
  }
}
