#pragma once
// What a training run knows besides model, optimizer and tokenizer, and its JSON text in a checkpoint.
#include <moegpt/core/buffer.hpp>
#include <moegpt/io/json_document.hpp>

#include <charconv>
#include <map>
#include <optional>
#include <string>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Random numbers are functions of the seed and the step, the learning rate is one of the options and the
// step.
struct TrainingState {
  Index step = 0;     // taken
  Index tokens = 0;   // seen by these steps
  Index skipped = 0;  // steps without an update, because a number was not finite
  std::uint64_t seed = 0;
  std::uint64_t corpus = 0;               // hash of the tokens
  std::map<std::string, Index> cursor{};  // place in the training data
  std::optional<double> best_val{};       // lowest validation loss so far, in nats per token
  Index best_step = 0;
  // The checkpoint of the lowest validation loss among those that were saved at a step with an evaluation.
  struct Saved {
    Index step = 0;
    double val = 0;
    bool operator==(const Saved&) const = default;
  };
  std::optional<Saved> best_saved{};
  std::map<std::string, std::string> options{};  // of the program, its recipe included
  bool operator==(const TrainingState&) const = default;
};

namespace checkpoint {

inline constexpr Index state_bytes = 1 << 24;  // of its text, at most

// Numbers of 64 bits are texts: JSON's have 53 in many programs. Throws std::runtime_error for a text that is
// too long to be read back.
inline std::string state_text(const TrainingState& state) {
  std::string text;
  JsonText json(text, JsonText::Lines::each);
  json.member("version", MOEGPT_VERSION).member("step", state.step).member("tokens", state.tokens);
  json.member("skipped", state.skipped).member("seed", std::to_string(state.seed));
  json.member("corpus", std::to_string(state.corpus)).member("cursor", state.cursor);
  if (state.best_val) json.member("best_val", *state.best_val);
  json.member("best_step", state.best_step);
  if (state.best_saved)
    json.member("best_saved_step", state.best_saved->step).member("best_saved_val", state.best_saved->val);
  json.member("options", state.options).end();
  text += '\n';
  if (std::ssize(text) > state_bytes)
    reject_file("the state of a run", "has ", text.size(), " bytes, expected at most ", state_bytes);
  return text;
}

inline std::uint64_t read_64_bits(const JsonObject& object, const char* member) {
  const std::string text = object.text(member);
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size())
    reject_file(object.name(), "\"", member, "\" is ", shown(text), ", expected a whole number below 2^64");
  return number;
}

// Of such a text; `name` is the file's in messages. Throws std::runtime_error.
inline TrainingState read_state(const std::string& name, const std::string& text) {
  const nlohmann::json json = parse_json(name, text);
  const JsonObject object(name, json);
  TrainingState state;
  state.step = object.integer("step");
  state.tokens = object.integer("tokens");
  state.skipped = object.integer("skipped");
  state.seed = read_64_bits(object, "seed");
  state.corpus = read_64_bits(object, "corpus");
  const JsonObject cursor(name + ": cursor", object.at("cursor"));
  for (const auto& item : object.at("cursor").items())
    state.cursor[item.key()] = cursor.integer(item.key().c_str());
  if (object.has("best_val")) state.best_val = object.number("best_val");
  state.best_step = object.integer("best_step");
  if (object.has("best_saved_step"))
    state.best_saved = {object.integer("best_saved_step"), object.number("best_saved_val")};
  const JsonObject options(name + ": options", object.at("options"));
  for (const auto& item : object.at("options").items())
    state.options[item.key()] = options.text(item.key().c_str());
  return state;
}

}  // namespace checkpoint

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
