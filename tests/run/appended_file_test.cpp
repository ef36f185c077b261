#include <moegpt/run/appended_file.hpp>
#include <moegpt/run/metrics.hpp>
#include <moegpt/run/tensorboard.hpp>

#include "../io/support.hpp"
#include "support/faulty_files.hpp"

using namespace moegpt;

namespace {

using File = AppendedFile<FaultyFiles>;

StepRecord step_record(Index step) {
  StepRecord r;
  r.step = step, r.loss = 2;
  return r;
}

}  // namespace

TEST_CASE("whichever call fails, pieces are in the file in their order, whole, when the next one is") {
  for (const auto fault : FaultyFiles::faults)
    for (int at = 1; at < 8; ++at) {  // call 0 opens the file
      TemporaryFolder folder;
      FaultyFiles::begin(at, fault);
      std::string expected;
      {
        File file(folder / "log", File::Start::create);
        for (const char* piece : {"first\n", "second\n", "third\n"}) {
          file.waiting() += piece;
          expected += piece;
          if (file.append()) {
            CHECK(get(folder / "log") == expected);
            CHECK(file.error().empty());
          } else {
            CHECK_FALSE(file.error().empty());
          }
          file.flush();
        }
        FaultyFiles::begin();
        CHECK(file.flush());
      }
      CHECK(get(folder / "log") == expected);
    }
}

TEST_CASE("a file is created, or goes on") {
  TemporaryFolder folder;
  FaultyFiles::begin();
  put(folder / "log", "old\n");
  CHECK(has(error_of([&] { File file(folder / "log", File::Start::create); }), "cannot create"));
  File file(folder / "log", File::Start::go_on);
  file.waiting() += "new\n";
  CHECK(file.append());
  CHECK(get(folder / "log") == "old\nnew\n");
  CHECK(has(error_of([&] { File other(folder / "nowhere" / "log", File::Start::go_on); }), "No such file"));
}

TEST_CASE("pieces beyond 64 MiB that the disk does not take are dropped whole") {
  TemporaryFolder folder;
  FaultyFiles::begin();
  File file(folder / "log", File::Start::create);
  FaultyFiles::begin(0, FaultyFiles::Fault::io_error, true);
  const std::string piece(std::size_t{1} << 25, 'a');
  for (int i = 0; i < 4; ++i) {
    file.waiting() += piece;
    CHECK_FALSE(file.append());
  }
  CHECK(file.waiting().size() <= 3 * piece.size());
  CHECK(file.waiting().size() % piece.size() == 0);
}

TEST_CASE("whichever call fails when a log is cut, it is the old one or the cut one") {
  for (int at = 0; at < 12; ++at)
    for (const auto fault : FaultyFiles::faults) {
      TemporaryFolder folder;
      FaultyFiles::begin();
      std::string old_lines, old_events;
      {
        MetricsFile lines(folder / "metrics.jsonl");
        EventFile events(folder / "tfevents", 0);
        for (Index step = 1; step <= 3; ++step)
          lines.write(step_record(step)), events.write(step_record(step));
      }
      old_lines = get(folder / "metrics.jsonl"), old_events = get(folder / "tfevents");
      const std::size_t cut = old_lines.find('\n') + 1, intact = tensorboard::intact(old_events, 1);
      FaultyFiles::begin(at, fault);
      error_of([&] { MetricsFileOf<FaultyFiles> lines(folder / "metrics.jsonl", 1); });
      const std::string lines = get(folder / "metrics.jsonl");
      CHECK((lines == old_lines || lines == old_lines.substr(0, cut)));
      FaultyFiles::begin(at, fault);
      error_of([&] { EventFileOf<FaultyFiles> events(folder / "tfevents", 0, 1); });
      const std::string events = get(folder / "tfevents");
      CHECK((events == old_events || events == old_events.substr(0, intact)));
    }
}
