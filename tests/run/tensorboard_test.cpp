#include <moegpt/run/tensorboard.hpp>

#include "../io/support.hpp"

using namespace moegpt;

namespace {

std::string record(double time, Index step, float value) {
  tensorboard::Summary summary;
  summary.scalar("a", static_cast<double>(value));
  std::string text;
  tensorboard::append_record(text, tensorboard::event(time, step, summary));
  return text;
}
StepRecord step_record(Index step) {
  StepRecord r;
  r.step = step, r.loss = 2.5, r.learning_rate = 1e-3, r.time = 10;
  r.layers = {{1, 8, {4, 4}}};
  return r;
}

}  // namespace

TEST_CASE("a record has the bytes of the format") {
  // Event{wall_time: 1.5, step: 300, summary {value {tag: "a", simple_value: 0.5}}}
  constexpr char stored[] =
      "\x09\0\0\0\0\0\0\xf8\x3f"
      "\x10\xac\x02"
      "\x2a\x0a"
      "\x0a\x08"
      "\x0a\x01"
      "a"
      "\x15\0\0\0\x3f";
  const std::string event(stored, sizeof stored - 1);
  const std::string bytes = record(1.5, 300, 0.5f);
  REQUIRE(bytes.size() == 12 + event.size() + 4);
  CHECK(bytes.substr(0, 8) == eight_bytes(event.size()));
  CHECK(bytes.substr(12, event.size()) == event);
  // of TensorFlow's crc32c_test.cc: unmasked 0xe3069283 of "123456789"
  CHECK(crc32c_of("123456789") == 0xe3069283u);
  CHECK(tensorboard::masked(0xe3069283u) == ((0xe3069283u >> 15 | 0xe3069283u << 17) + 0xa282ead8u));
}

TEST_CASE("intact records are those before the first one that is torn, damaged or of a later step") {
  const std::string one = record(1, 1, 1), two = record(2, 2, 2), three = record(3, 3, 3);
  const std::string file = one + two + three;
  CHECK(tensorboard::intact(file, 3) == file.size());
  CHECK(tensorboard::intact(file, 2) == one.size() + two.size());
  CHECK(tensorboard::intact(file, 0) == 0);
  CHECK(tensorboard::intact(record(1, 0, 1), 0) > 0);
  CHECK(tensorboard::intact(record(1, 0, 1), -1) == 0);  // a run that begins anew
  CHECK(tensorboard::intact("", 3) == 0);
  for (std::size_t cut = 1; cut < three.size(); ++cut)
    REQUIRE(tensorboard::intact(std::string_view(file).substr(0, file.size() - cut), 3) ==
            one.size() + two.size());
  for (std::size_t bit = 0; bit < 8 * two.size(); ++bit) {
    std::string damaged = file;
    damaged[one.size() + bit / 8] = static_cast<char>(damaged[one.size() + bit / 8] ^ (1 << bit % 8));
    REQUIRE(tensorboard::intact(damaged, 3) == one.size());
  }
}

TEST_CASE("a record with right checksums that is no message is not kept") {
  const std::string_view wrong[] = {"\x10",
                                    "\x10\xff\xff",
                                    "\x0f",
                                    "\x2a\x05",
                                    "\x09\x01",
                                    "\x2a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
                                    "\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"};
  for (const std::string_view bytes : wrong) {
    std::string file;
    tensorboard::append_record(file, bytes);
    CHECK(tensorboard::intact(file, 5) == 0);
  }
  std::string other;
  tensorboard::append_record(other, tensorboard::Message().bytes(3, "x").real(7, 1.0f).integer(2, 5).text());
  CHECK(tensorboard::intact(other, 5) == other.size());
  CHECK(tensorboard::intact(other, 4) == 0);
}

TEST_CASE("a resumed event file is the one of a run that was not interrupted") {
  TemporaryFolder folder;
  const auto whole = folder / "tfevents.whole", resumed = folder / "tfevents.resumed";
  EventFile all(whole, 5);
  {
    EventFile first(resumed, 5);
    for (Index step = 1; step <= 4; ++step) CHECK(first.write(step_record(step)));
  }
  put(resumed, get(resumed) + "torn");
  EventFile second(resumed, 99, 2);
  for (Index step = 1; step <= 4; ++step) {
    CHECK(all.write(step_record(step)));
    if (step > 2) CHECK(second.write(step_record(step)));
  }
  CHECK(get(whole) == get(resumed));
  CHECK(has(error_of([&] { EventFile again(whole, 5); }), "cannot create"));
  put(resumed, "");
  EventFile third(resumed, 5, 2);
  CHECK(third.write(step_record(3)));
  CHECK(third.write(EventRecord{3, "checkpoint", "", 1}));  // not written
  std::string expected;
  tensorboard::append_record(expected, tensorboard::first_event(5));
  tensorboard::Summary summary;
  tensorboard::add(summary, step_record(3));
  tensorboard::append_record(expected, tensorboard::event(10, 3, summary));
  CHECK(get(resumed) == expected);
}
