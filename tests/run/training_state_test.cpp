#include <moegpt/run/training_state.hpp>

#include "../io/support.hpp"

#include <cmath>

using namespace moegpt;

TEST_CASE("a state is read back, and what is none is refused by name") {
  TrainingState state{.step = 3,
                      .tokens = 48,
                      .seed = ~std::uint64_t{0},
                      .corpus = 0xfedcba9876543210,
                      .cursor = {{"data", 3}, {"position", 7}},
                      .best_val = 0.1,
                      .best_step = 2,
                      .best_saved = TrainingState::Saved{1, 0.25},
                      .options = {{"steps", "9"}}};
  const std::string text = checkpoint::state_text(state);
  CHECK(checkpoint::read_state("s", text) == state);
  state.best_val.reset(), state.best_saved.reset();
  CHECK(checkpoint::read_state("s", checkpoint::state_text(state)) == state);
  for (const char* wrong : {"", "{", "[]", "3", "{\"step\": -1}", "{\"step\": 1.5}", "{\"step\": \"1\"}"})
    CHECK(has(error_of([&] { checkpoint::read_state("s", wrong); }), "moegpt: s: "));
  for (const char* key : {"step", "tokens", "seed", "corpus", "cursor", "options", "best_val",
                          "best_saved_val", "data", "position"}) {
    std::string damaged = text;
    const std::size_t at = damaged.find("\"" + std::string(key) + "\": ") + std::string(key).size() + 4;
    damaged.insert(at, "[],\"x\": ");
    const std::string error = error_of([&] { checkpoint::read_state("s", damaged); });
    CAPTURE(key, error);
    CHECK(has(error, "moegpt: s"));
    CHECK((has(error, key) && has(error, "is array, expected")));
  }
  for (const char* wrong : {"-1", "1x", "", "18446744073709551616"}) {
    std::string damaged = text;
    damaged.replace(damaged.find("18446744073709551615"), 20, wrong);
    CHECK(has(error_of([&] { checkpoint::read_state("s", damaged); }), "s: \"seed\" is '"));
  }
}

TEST_CASE("a state that could not be read back is not written") {
  TrainingState state;
  state.options["data"] = std::string(checkpoint::state_bytes, 'x');
  CHECK(has(error_of([&] { checkpoint::state_text(state); }), "expected at most 16777216"));
}
