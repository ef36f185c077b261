#include <moegpt/run/metrics.hpp>

#include "../io/support.hpp"

using namespace moegpt;

namespace {

StepRecord step_record(Index step) {
  StepRecord r;
  r.step = step, r.tokens = 256 * step, r.loss = 3.25 / static_cast<double>(step);
  r.router.balance = 1.0625, r.router.own = 0.1;
  r.learning_rate = 1e-3, r.gradient_norm = 0.7;
  r.layers = {{0, 512, {130, 126, 128, 128}}, {2, 512, {512, 0, 0, 0}}};
  r.seconds = 0.02, r.tokens_per_second = 48200, r.utilisation = 0.31, r.time = 1789000000.5;
  return r;
}
const RunRecord run_record{.step = 0,
                           .model = "GPT<Config{...}, TopKRouter<4, 2>>",
                           .parameters = 1000,
                           .active = 620.5,
                           .steps = 100,
                           .unit = "character",
                           .options = {{"a \"name\"\n", "caf\u00e9"}, {"batch", "8"}},
                           .baselines = {{"uniform", 4.17}, {"unigram", 3.3}},
                           .peak = 1e11,
                           .time = 1};

std::string text_of(double x) {
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, x).ptr};
}
template <class Record>
std::string line_of(const Record& record) {
  std::string text;
  append_line(text, record);
  return text;
}

}  // namespace

TEST_CASE("a training record is one line of JSON, and what differs between executions comes last") {
  const std::string entropy = text_of(step_record(2).layers[0].entropy());
  CHECK(line_of(step_record(2)) ==
        R"({"kind":"train","step":2,"tokens":512,"loss":1.625,"balance_loss":1.0625,"z_loss":0,)"
        R"("importance_loss":0,"load_loss":0,"variance_loss":0,"count_loss":0,"own_loss":0.1,)"
        R"("learning_rate":0.001,"gradient_norm":0.7,"layers":[0,2],)"
        R"("load":[[130,126,128,128],[512,0,0,0]],"wanted":[512,512],"max_over_mean":[1.015625,4],)"
        R"("entropy":[)" +
            entropy +
            R"(,0],"dead":[0,3],"dropped":[0,0],"seconds":0.02,"tokens_per_second":48200,"utilisation":0.31,)"
            R"("time":1789000000.5})"
            "\n");
}

TEST_CASE("records are read as they were written") {
  TemporaryFolder folder;
  {
    MetricsFile file(folder / "metrics.jsonl");
    CHECK(file.write(run_record));
    CHECK(file.write(step_record(1)));
    CHECK(file.write(EvaluationRecord{1, 3.5, INFINITY, true, 2}));
    CHECK(file.write(SampleRecord{1, "a\tb\n\"</script>\u00e9", 3}));
    CHECK(file.write(EventRecord{1, "checkpoint", "saved", 4}));
    CHECK(file.write(step_record(2)));
    CHECK(file.flush());
  }
  const Metrics m = read_metrics(folder / "metrics.jsonl");
  REQUIRE(m.run.has_value());
  CHECK(line_of(*m.run) == line_of(run_record));
  REQUIRE(m.steps.size() == 2);
  CHECK(line_of(m.steps[0]) == line_of(step_record(1)));
  CHECK(line_of(m.steps[1]) == line_of(step_record(2)));
  REQUIRE(m.evaluations.size() == 1);
  CHECK(m.evaluations[0].train == 3.5);
  CHECK(m.evaluations[0].val == INFINITY);
  CHECK(m.evaluations[0].best);
  REQUIRE(m.samples.size() == 1);
  CHECK(m.samples[0].text == "a\tb\n\"</script>\u00e9");
  REQUIRE(m.events.size() == 1);
  CHECK(m.events[0].what == "checkpoint");
  CHECK_FALSE(m.torn);
  CHECK(has(error_of([&] { MetricsFile again(folder / "metrics.jsonl"); }), "cannot create"));
}

TEST_CASE("a step of several processes has the work of each, and is read back") {
  StepRecord r = step_record(1);
  r.ranks = {{600, 4096, 0.25}, {424, 8192, 0.5}};
  const std::string line = line_of(r);
  CHECK(has(line, R"("utilisation":0.31,"rank_load":[600,424],"rank_bytes":[4096,8192],)"
                  R"("rank_waiting":[0.25,0.5],"time":)"));
  CHECK(line_of(parse_metrics("log", line).steps.at(0)) == line);
  const std::string fewer = std::string(line).replace(line.find("[4096,8192]"), 11, "[4096]");
  CHECK(has(error_of([&] { parse_metrics("log", fewer); }), "loads of 2 ranks, bytes of 1 and waiting of 2"));
}

TEST_CASE("numbers that are not finite come back") {
  StepRecord r = step_record(1);
  r.loss = NAN, r.gradient_norm = -INFINITY;
  const Metrics m = parse_metrics("log", line_of(r));
  CHECK(std::isnan(m.steps.at(0).loss));
  CHECK(m.steps[0].gradient_norm == -INFINITY);
}

TEST_CASE("a sample that is not UTF-8 makes no log that cannot be read") {
  const std::string cut = "caf\u00e9";
  const Metrics m = parse_metrics("log", line_of(SampleRecord{1, "\xff" + cut.substr(0, 4) + "\n\x7f", 0}));
  CHECK(m.samples.at(0).text == "\ufffdcaf\ufffd\n\x7f");
}

TEST_CASE("an incomplete last line is ignored, wherever it was cut") {
  const std::string first = line_of(step_record(1)), text = first + line_of(step_record(2));
  for (std::size_t cut = first.size(); cut < text.size(); ++cut) {
    const Metrics m = parse_metrics("log", std::string_view(text).substr(0, cut));
    REQUIRE(m.steps.size() == 1);
    REQUIRE(m.torn == (cut > first.size()));
  }
}

TEST_CASE("any other line that is not a record is an error with its number") {
  const std::string good = line_of(step_record(1));
  const auto error = [&](std::string line) {
    return error_of([&] { parse_metrics("log", good + line + "\n" + good); });
  };
  const auto changed = [&](std::string_view from, std::string_view to) {
    std::string line = good.substr(0, good.size() - 1);
    return line.replace(line.find(from), from.size(), to);
  };
  CHECK(has(error("{\"kind\":"), "moegpt: log, line 2: is not valid JSON"));
  CHECK(has(error(""), "line 2: is not valid JSON"));
  CHECK(has(error("[1]"), "line 2: is array, expected an object"));
  CHECK(has(error("{}"), "line 2: has no member \"kind\""));
  CHECK(has(error(changed("\"step\":1", "\"step\":-1")), "\"step\" is '-1', expected 0 .. "));
  CHECK(has(error(changed("\"step\":1", "\"step\":1.5")), "\"step\" is number, expected a whole number"));
  CHECK(has(error(changed("\"loss\":3.25", "\"loss\":\"low\"")), "\"loss\" is string, expected a number"));
  CHECK(has(error(changed("\"layers\":[0,2]", "\"layers\":[0]")),
            "loads of 2 and requests of 2 layers, expected those of 1"));
  CHECK(has(error(changed("[512,0,0,0]", "[]")), "a load of 0 experts"));
  CHECK(has(error(changed("[512,0,0,0]", "[[1]]")), "more than 3 levels"));
  CHECK(has(error(changed("[512,0,0,0]", "7")), "expected a list"));
  CHECK(parse_metrics("log", "{\"kind\":\"of a later version\",\"step\":3}\n").steps.empty());
}

TEST_CASE("a resumed log loses the records of later steps and an incomplete line, and goes on") {
  TemporaryFolder folder;
  const auto path = folder / "metrics.jsonl";
  const std::string kept = line_of(run_record) + line_of(step_record(1)) + line_of(step_record(2)) +
                           line_of(EvaluationRecord{2, 1, 2, true, 0});
  const std::string_view ends[] = {"", "{\"kind\":\"train\",\"st", "\0\0\0"};
  for (const std::string_view end : ends)
    for (const bool later : {false, true}) {
      put(path, kept + (later ? line_of(step_record(3)) + line_of(step_record(4)) : "") + std::string(end));
      MetricsFile file(path, 2);
      CHECK(get(path) == kept);
      CHECK(file.write(step_record(3)));
      CHECK(get(path) == kept + line_of(step_record(3)));
    }
  MetricsFile fresh(folder / "other.jsonl", 2);
  CHECK(fresh.write(step_record(3)));
  put(path, "");
  CHECK_FALSE(read_metrics(path).run.has_value());
}

TEST_CASE("damaged lines behind records of kept steps are cut off with a message, others are an error") {
  TemporaryFolder folder;
  const auto path = folder / "metrics.jsonl";
  const std::string kept = line_of(run_record) + line_of(step_record(1)) + line_of(step_record(2));
  std::string cut = line_of(step_record(2));
  cut.erase(cut.find("\"loss\""), 30);
  for (const std::string& damage : {std::string("no record\n"), std::string(300, '\0') + "\n", cut,
                                    std::string("\n"), std::string("{}\n")})
    for (const std::string& after : {std::string(), line_of(step_record(3)), std::string("{\"ki")}) {
      put(path, kept + damage + after);
      MetricsFile file(path, 2);
      CHECK(has(file.damage(), "metrics.jsonl, line 4: "));
      CHECK(file.write(step_record(3)));
      CHECK(get(path) == kept + line_of(step_record(3)));
      CHECK(MetricsFile(path, 3).damage() == "");

      put(path, kept + damage + line_of(step_record(2)) + after);
      const std::string before = get(path), error = error_of([&] { MetricsFile again(path, 2); });
      CHECK(has(error, "line 4: "));
      CHECK(has(error, "records of kept steps follow it: correct the line, or move the file away"));
      CHECK(get(path) == before);
    }
  // Damage behind a record that is cut off anyway needs no word.
  put(path, kept + line_of(step_record(3)) + "no record\n");
  CHECK(MetricsFile(path, 2).damage() == "");
  CHECK(get(path) == kept);
}

TEST_CASE("the final loss is a record of its own, which readers of steps and evaluations need not know") {
  const std::string line = line_of(FinalRecord{40, 1.5, 0, 7});
  CHECK(line == "{\"kind\":\"final\",\"step\":40,\"val_loss\":1.5,\"batches\":0,\"time\":7}\n");
  const Metrics m = parse_metrics("log", line_of(FinalRecord{30, 2, 400, 6}) + line);
  REQUIRE(m.final_loss.has_value());
  CHECK(line_of(*m.final_loss) == line);
  CHECK(m.evaluations.empty());
}

namespace {

// The disk takes only `room` further bytes, a few at a time.
struct FullDisk : SystemFiles {
  static inline std::size_t room = 0;
  static ssize_t write(int number, const char* bytes, std::size_t count) {
    if (room == 0) return errno = ENOSPC, -1;
    const std::size_t some = std::min({count, room, std::size_t{50}});
    room -= some;
    return SystemFiles::write(number, bytes, some);
  }
};

}  // namespace

TEST_CASE("a full disk delays lines, and none is lost or torn when there is room again") {
  TemporaryFolder folder;
  const auto path = folder / "metrics.jsonl";
  const std::string lines = line_of(run_record) + line_of(step_record(1)) + line_of(step_record(2));
  for (std::size_t room = 0; room < lines.size(); room += 37) {
    std::filesystem::remove(path);
    FullDisk::room = room;
    MetricsFileOf<FullDisk> file(path);
    file.write(run_record);
    file.write(step_record(1));
    CHECK_FALSE(file.write(step_record(2)));
    CHECK(file.error() == "No space left on device");
    CHECK(get(path) == lines.substr(0, room));
    CHECK_FALSE(file.flush());
    FullDisk::room = 1000000;
    CHECK(file.write(step_record(3)));
    CHECK(file.error().empty());
    CHECK(get(path) == lines + line_of(step_record(3)));
  }
}

TEST_CASE("a log that cannot be cut is left as it was") {
  TemporaryFolder folder;
  const auto path = folder / "metrics.jsonl";
  const std::string lines = line_of(step_record(1)) + line_of(step_record(2));
  put(path, lines);
  FullDisk::room = 10;
  CHECK(has(error_of([&] { MetricsFileOf<FullDisk> file(path, 1); }), "No space left on device"));
  CHECK(get(path) == lines);
  CHECK(folder.files() == 1);
}
