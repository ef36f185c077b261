#pragma once
// Lines of progress of a run as text, for a terminal or a file. The library prints nothing: the program
// writes the text to stderr.
//   step  1200/5000 | loss 1.7321 | train 1.7001 val 1.7904* ppl 5.99 | lr 8.3e-04 | gnorm 0.71 | 48.2k tok/s
//   | 15.9 ms | 31% of peak | balance 1.02 z 0.003 | load max 1.31 H 0.97 dead 0/8 drop 0.0% | eta 0:58
// load max: largest load over the mean; H: entropy of the load over ln E; dead: experts without tokens; drop:
// pairs without a slot; each of the worst layer. A star marks the best validation loss so far.
#include <moegpt/run/records.hpp>

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Colour { automatic, always, never };

// What a stream can show.
struct Terminal {
  bool redraws = false;  // the last line can be replaced
  bool colour = false;
  int descriptor = -1;  // whose width is asked for whenever a line is drawn; -1: `columns`
  int columns = 0;      // 0: any length

  int width() const {
    winsize size{};
    if (descriptor < 0 || ::ioctl(descriptor, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return columns;
    return size.ws_col;
  }
};

// The environment that decides; null: not set.
struct TerminalEnvironment {
  bool is_terminal = false;
  const char *term = nullptr, *no_color = nullptr, *clicolor_force = nullptr;
};
// The option decides about colour, then NO_COLOR (no-color.org), then CLICOLOR_FORCE, then whether this is a
// terminal that is not dumb.
inline Terminal terminal_of(const TerminalEnvironment& e, Colour colour = Colour::automatic) {
  const auto is_set = [](const char* text) { return text && *text; };
  const bool able = e.is_terminal && !(e.term && std::string_view(e.term) == "dumb");
  Terminal terminal{.redraws = able, .columns = able ? 80 : 0};
  if (colour != Colour::automatic)
    terminal.colour = colour == Colour::always;
  else if (is_set(e.no_color))
    terminal.colour = false;
  else if (is_set(e.clicolor_force) && std::string_view(e.clicolor_force) != "0")
    terminal.colour = true;
  else
    terminal.colour = able;
  return terminal;
}
inline Terminal terminal_of(int descriptor, Colour colour = Colour::automatic) {
  Terminal terminal = terminal_of({.is_terminal = ::isatty(descriptor) == 1,
                                   .term = std::getenv("TERM"),
                                   .no_color = std::getenv("NO_COLOR"),
                                   .clicolor_force = std::getenv("CLICOLOR_FORCE")},
                                  colour);
  if (terminal.redraws) terminal.descriptor = descriptor;
  return terminal;
}

namespace detail {

template <class... Numbers>
std::string formatted(const char* format, Numbers... numbers) {
  const int length = std::snprintf(nullptr, 0, format, numbers...);
  std::string text(static_cast<std::size_t>(std::max(length, 0)), '\0');
  std::snprintf(text.data(), text.size() + 1, format, numbers...);
  return text;
}

}  // namespace detail

// 48200 as 48.2k, 1.3e9 as 1.3G
inline std::string short_number(double x) {
  static constexpr const char* units[] = {"", "k", "M", "G", "T", "P"};
  int unit = 0;
  for (; std::abs(x) >= 999.5 && unit < 5; ++unit) x /= 1000;
  const int digits = unit == 0 || std::abs(x) >= 99.95 ? 0 : 1;
  return detail::formatted("%.*f%s", digits, x, units[unit]);
}
// 58 as 0:58, 3661 as 1:01:01, 2 days as 48:00:00
inline std::string clock_time(double seconds) {
  if (!(seconds >= 0 && seconds < 1e9)) return "?";
  const auto s = static_cast<long>(std::llround(seconds));
  return s < 3600 ? detail::formatted("%ld:%02ld", s / 60, s % 60)
                  : detail::formatted("%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
}

// Which lines stay: of every step on a terminal that redraws, of every log interval elsewhere.
enum class Line {
  passing,   // of a step: drawn on a terminal only, at most ten times a second, and replaced by the next
  interval,  // of a log interval: the same, but stays where lines are not redrawn
  kept,      // of an evaluation: stays everywhere
};

class Console {
 public:
  // steps: of the whole run. Router losses are shown if they have a coefficient in the objective.
  explicit Console(Terminal terminal, Index steps, const Objective& objective = {})
      : terminal_(terminal), steps_(steps) {
    for (const auto& entry : loss_table<double>)
      if (objective.*entry.coefficient != 0) losses_.push_back(entry);
  }

  // The text to write for a step; may be empty. The record's time decides how often a line is drawn and what
  // time is left, at the mean speed since the first record.
  std::string step(const StepRecord& r, Line line = Line::passing,
                   const EvaluationRecord* evaluation = nullptr) {
    if (!first_) first_ = {r.step, r.time};
    const bool stays = line == Line::kept || (line == Line::interval && !terminal_.redraws);
    if (!stays && (!terminal_.redraws || r.time - drawn_ < 0.1)) return {};
    drawn_ = r.time;
    std::vector<Field> fields = fields_of(r, evaluation);
    if (const int width = terminal_.redraws ? terminal_.width() : 0; width > 0)
      fit(fields, std::max(width - 1, 1));
    std::string text = erase();
    for (const Field& field : fields) {
      if (&field != fields.data()) text += " | ";
      text += coloured(field.text, field.colour);
    }
    open_ = !stays;
    return text += stays ? "\n" : "";
  }
  // A sentence or a text of its own lines: a checkpoint, a warning, a sample.
  std::string note(std::string_view words) {
    drawn_ = 0;
    std::string text = erase() + std::string(words);
    open_ = false;
    return text += "\n";
  }
  // Before another program writes, or at the end: ends an open line.
  std::string end() { return std::exchange(open_, false) ? "\n" : ""; }

 private:
  struct Field {
    std::string text;
    int rank;  // where the line is too long, the highest ranks are left out
    const char* colour = nullptr;
  };

  static constexpr const char *red = "31", *green = "32", *yellow = "33";

  std::vector<Field> fields_of(const StepRecord& r, const EvaluationRecord* evaluation) const {
    using detail::formatted;
    std::vector<Field> fields;
    const auto digits = static_cast<int>(std::to_string(steps_).size());
    fields.push_back({formatted("step %*td/%td", digits, r.step, steps_), 0});
    fields.push_back({formatted("loss %.4f", r.loss), 0, std::isfinite(r.loss) ? nullptr : red});
    if (evaluation)
      fields.push_back({formatted("train %.4f val %.4f%s ppl %.3g", evaluation->train, evaluation->val,
                                  evaluation->best ? "*" : "", std::exp(evaluation->val)),
                        0, evaluation->best ? green : nullptr});
    fields.push_back({formatted("lr %.1e", r.learning_rate), 5});
    fields.push_back(
        {formatted("gnorm %.2f", r.gradient_norm), 6, std::isfinite(r.gradient_norm) ? nullptr : red});
    fields.push_back({short_number(r.tokens_per_second) + " tok/s", 2});
    if (r.seconds > 0)
      fields.push_back({formatted(r.seconds < 0.1 ? "%.1f ms" : "%.0f ms", 1e3 * r.seconds), 7});
    if (r.utilisation > 0) fields.push_back({formatted("%.0f%% of peak", 100 * r.utilisation), 4});
    std::string losses;
    for (const auto& entry : losses_)
      losses += (losses.empty() ? "" : " ") + formatted("%s %.3g", entry.name, r.router.*entry.value);
    if (!losses.empty()) fields.push_back({losses, 8});
    if (!r.layers.empty()) {
      const ExpertHealth h = worst_of(r.layers);
      fields.push_back({formatted("load max %.2f H %.2f dead %d/%d drop %.1f%%", h.max_over_mean, h.entropy,
                                  h.dead, h.experts, 100 * h.dropped),
                        3,
                        h.dead > 0        ? red
                        : h.dropped > 0.1 ? yellow
                                          : nullptr});
    }
    if (r.step >= steps_)
      fields.push_back({"in " + clock_time(r.time - first_->second), 1});
    else if (r.step > first_->first)
      fields.push_back(
          {"eta " + clock_time((r.time - first_->second) / static_cast<double>(r.step - first_->first) *
                               static_cast<double>(steps_ - r.step)),
           1});
    return fields;
  }
  // Keeps what fits into `width` columns, in the order of rank. The first field is cut if it does not.
  static void fit(std::vector<Field>& fields, int width) {
    std::vector<Field*> by_rank;
    for (Field& field : fields) by_rank.push_back(&field);
    std::stable_sort(by_rank.begin(), by_rank.end(), [](auto* a, auto* b) { return a->rank < b->rank; });
    int used = -3;
    for (Field* field : by_rank) {
      const int length = 3 + static_cast<int>(field->text.size());
      if (used + length <= width)
        used += length;
      else if (field == by_rank[0])
        field->text.resize(static_cast<std::size_t>(width)), used += width + 3;
      else
        field->text.clear();
    }
    std::erase_if(fields, [](const Field& field) { return field.text.empty(); });
  }
  std::string coloured(const std::string& text, const char* colour) const {
    if (!terminal_.colour || !colour) return text;
    return std::string("\x1b[") + colour + "m" + text + "\x1b[0m";
  }
  std::string erase() const { return open_ ? "\r\x1b[K" : ""; }

  Terminal terminal_;
  Index steps_;
  std::vector<LossEntry<double>> losses_{};
  std::optional<std::pair<Index, double>> first_{};  // step and time of the first record
  double drawn_ = 0;                                 // time of the last line
  bool open_ = false;                                // a line without its end is on the terminal
};

// What stands before the first step.
inline std::string header_of(const RunRecord& run) {
  using detail::formatted;
  const BuildInfo build = build_info();
  std::string text = formatted("moegpt %s, %s, compiler %s, Eigen %d.%d.%d\n", build.version, build.simd,
                               build.compiler, build.eigen[0], build.eigen[1], build.eigen[2]);
  text += "model: " + run.model + "\n";
  text += short_number(static_cast<double>(run.parameters)) + " weights, " + short_number(run.active) +
          " active for each token\n";
  for (const auto& [name, value] : run.options) text += name + ": " + value + "\n";
  if (!run.baselines.empty()) {
    text += "losses are in nats per " + (run.unit.empty() ? "token" : run.unit) + ";";
    for (const auto& [name, loss] : run.baselines) text += " " + name + formatted(" %.4f", loss);
    text += "\n";
  }
  if (run.peak > 0)
    text += formatted("peak: %.0f GFLOP/s, measured by chains of fused multiply-adds\n", 1e-9 * run.peak);
  return as_utf8(text);
}

// A warning if the loss of an untrained model is more than 10 % from ln V; otherwise empty.
inline std::string unusual_first_loss(double loss, int vocab) {
  const double expected = uniform_loss(vocab);
  if (std::abs(loss - expected) <= 0.1 * expected) return {};
  return detail::formatted(
      "the first loss is %.4f, that of a uniform guess is ln %d = %.4f: is the initialisation as intended?",
      loss, vocab, expected);
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
