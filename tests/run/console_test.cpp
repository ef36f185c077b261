#include <moegpt/run/console.hpp>

#include "support/catch.hpp"

using namespace moegpt;
using Catch::Matchers::EndsWith, Catch::Matchers::StartsWith;

namespace {

StepRecord step_record(Index step, double time) {
  StepRecord r;
  r.step = step, r.time = time, r.loss = 1.7321, r.learning_rate = 8.3e-4, r.gradient_norm = 0.71;
  r.router.balance = 1.02, r.router.z = 0.003;
  r.layers = {{0, 16, {4, 4, 4, 4}}, {1, 16, {8, 4, 2, 0}}};
  r.seconds = 0.0159, r.tokens_per_second = 48200, r.utilisation = 0.31;
  return r;
}
const EvaluationRecord best{.step = 1200, .train = 1.7001, .val = 1.7904, .best = true};

}  // namespace

TEST_CASE("a line that is no terminal's has every field, no colour and its own end") {
  Console console({}, 5000, {.balance = 0.01, .z = 0.001});
  console.step(step_record(0, 100));
  CHECK(console.step(step_record(1200, 112), Line::kept, &best) ==
        "step 1200/5000 | loss 1.7321 | train 1.7001 val 1.7904* ppl 5.99 | lr 8.3e-04 | gnorm 0.71 | "
        "48.2k tok/s | 15.9 ms | 31% of peak | balance 1.02 z 0.003 | "
        "load max 2.29 H 0.69 dead 1/4 drop 12.5% | eta 0:38\n");
  CHECK(console.step(step_record(1201, 113)).empty());
  const std::string line = console.step(step_record(5000, 161.4), Line::interval);
  CHECK_THAT(line, ContainsSubstring("step 5000/5000 | ") && EndsWith(" | in 1:01\n"));
  CHECK_THAT(console.step(step_record(12, 162), Line::interval), StartsWith("step   12/5000 | "));
  CHECK(console.note("saved") == "saved\n");
  CHECK(console.end().empty());
}

TEST_CASE("a terminal's line is redrawn at most ten times a second and stays at an evaluation") {
  Console console({.redraws = true, .columns = 200}, 5000);
  const std::string first = console.step(step_record(1, 100));
  CHECK_THAT(first, StartsWith("step    1/5000 | loss 1.7321"));
  CHECK(first.back() != '\n');
  CHECK(console.step(step_record(2, 100.05)).empty());
  CHECK(console.step(step_record(3, 100.06), Line::interval).empty());
  CHECK_THAT(console.step(step_record(4, 100.2)), StartsWith("\r\x1b[Kstep    4/5000"));
  const std::string kept = console.step(step_record(5, 100.21), Line::kept, &best);
  CHECK_THAT(kept, StartsWith("\r\x1b[Kstep    5/5000") && EndsWith("\n"));
  CHECK_THAT(console.step(step_record(6, 100.4)), StartsWith("step    6/5000"));
  CHECK(console.note("saved") == "\r\x1b[Ksaved\n");
  console.step(step_record(7, 100.41));
  CHECK(console.end() == "\n");
  CHECK(console.end().empty());
}

TEST_CASE("a line is never as wide as the terminal, and what matters least is left out") {
  for (int columns = 1; columns < 240; ++columns) {
    Console console({.redraws = true, .columns = columns}, 5000);
    const std::string line = console.step(step_record(1200, 100), Line::kept, &best);
    REQUIRE(static_cast<int>(line.size()) - 1 <= std::max(columns - 1, 1));
  }
  Console console({.redraws = true, .columns = 80}, 5000);
  console.step(step_record(1, 99));
  CHECK(console.step(step_record(1200, 100)) ==
        "\r\x1b[Kstep 1200/5000 | loss 1.7321 | 48.2k tok/s | 15.9 ms | 31% of peak | eta 0:03");
}

TEST_CASE("colour adds to a line and changes nothing else") {
  Console plain({}, 5000), coloured({.colour = true}, 5000);
  StepRecord bad = step_record(1, 0);
  bad.loss = NAN;
  const std::string with = coloured.step(bad, Line::kept, &best);
  CHECK_THAT(with, ContainsSubstring("\x1b[31mloss nan\x1b[0m") && ContainsSubstring("\x1b[32mtrain 1.7001"));
  std::string without;
  for (std::size_t i = 0; i < with.size(); ++i)
    if (with[i] == '\x1b')
      i = with.find('m', i);
    else
      without += with[i];
  CHECK(without == plain.step(bad, Line::kept, &best));
}

TEST_CASE("an option decides about colour, then NO_COLOR, then CLICOLOR_FORCE, then the terminal") {
  struct Case {
    TerminalEnvironment environment;
    Colour colour;
    bool redraws, coloured;
  };
  const Case cases[] = {
      {{.is_terminal = true, .term = "xterm"}, Colour::automatic, true, true},
      {{.is_terminal = true, .term = nullptr}, Colour::automatic, true, true},
      {{.is_terminal = false, .term = "xterm"}, Colour::automatic, false, false},
      {{.is_terminal = true, .term = "dumb"}, Colour::automatic, false, false},
      {{.is_terminal = true, .term = "xterm", .no_color = "1"}, Colour::automatic, true, false},
      {{.is_terminal = true, .term = "xterm", .no_color = ""}, Colour::automatic, true, true},
      {{.is_terminal = true, .no_color = "1", .clicolor_force = "1"}, Colour::automatic, true, false},
      {{.is_terminal = false, .clicolor_force = "1"}, Colour::automatic, false, true},
      {{.is_terminal = false, .clicolor_force = "0"}, Colour::automatic, false, false},
      {{.is_terminal = false, .no_color = "1"}, Colour::always, false, true},
      {{.is_terminal = true, .clicolor_force = "1"}, Colour::never, true, false},
  };
  for (const Case& c : cases) {
    INFO(&c - cases);
    const Terminal terminal = terminal_of(c.environment, c.colour);
    CHECK(terminal.redraws == c.redraws);
    CHECK(terminal.colour == c.coloured);
  }
}

TEST_CASE("numbers and times are short") {
  CHECK(short_number(0) == "0");
  CHECK(short_number(999) == "999");
  CHECK(short_number(999.7) == "1.0k");
  CHECK(short_number(48200) == "48.2k");
  CHECK(short_number(482000) == "482k");
  CHECK(short_number(1.25e9) == "1.2G");
  CHECK(clock_time(0.4) == "0:00");
  CHECK(clock_time(58) == "0:58");
  CHECK(clock_time(3661) == "1:01:01");
  CHECK(clock_time(2 * 86400) == "48:00:00");
  CHECK(clock_time(NAN) == "?");
}

TEST_CASE("a first loss far from a uniform guess is a warning") {
  CHECK(unusual_first_loss(1.05 * std::log(65.0), 65).empty());
  CHECK_THAT(unusual_first_loss(9.5, 65),
             ContainsSubstring("the first loss is 9.5000") && ContainsSubstring("ln 65 = 4.1744"));
  CHECK_FALSE(unusual_first_loss(NAN, 65).empty());
}

TEST_CASE("the header says what is trained") {
  const std::string header = header_of({.model = "GPT<...>",
                                        .parameters = 1650000,
                                        .active = 640000,
                                        .unit = "character",
                                        .options = {{"threads", "2"}},
                                        .baselines = {{"uniform", 4.17}},
                                        .peak = 9.8e10});
  CHECK_THAT(header,
             ContainsSubstring("model: GPT<...>\n1.6M weights, 640k active for each token\nthreads: 2\n") &&
                 ContainsSubstring("nats per character; uniform 4.1700\n") &&
                 ContainsSubstring("peak: 98 GFLOP/s"));
}
