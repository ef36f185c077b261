#pragma once
// Rotary positions in config.json: rope_theta beside rope_scaling (transformers 4), or all in rope_parameters
// (transformers 5).
#include <moegpt/io/json_document.hpp>
#include <moegpt/layers/pass.hpp>
#include <moegpt/model/config.hpp>

#include <optional>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace huggingface {

// What an object of rotary parameters states.
struct RotaryKeys {
  RotaryScaling scaling = RotaryScaling::none;
  ModelOptions numbers{};  // rotary_base and the other numbers of rotary positions
  double partial = 1;      // share of a head's features that are rotated
  bool operator==(const RotaryKeys&) const = default;
};

// `usual`: of the keys beside the object. `context`: the longest, if the object does not state that of
// training.
inline RotaryKeys rotary_keys(const std::string& file, const char* key, const nlohmann::json& json,
                              RotaryKeys usual, int context) {
  const JsonObject object(std::string(file).append(": ").append(key), json);
  RotaryKeys keys = usual;
  std::set<std::string> used = {"type", "rope_type"};
  const auto has = [&](const char* member) {
    used.insert(member);
    return object.has(member) && !json[member].is_null();
  };
  const auto number_or = [&](const char* member, double other) {
    return has(member) ? object.number(member) : other;
  };
  std::string kind = has("type") ? object.text("type") : "default";
  if (has("rope_type")) {
    if (has("type") && object.text("rope_type") != kind)
      reject_file(object.name(), "\"type\" is ", shown(kind), " and \"rope_type\" ",
                  shown(object.text("rope_type")));
    kind = object.text("rope_type");
  }
  ModelOptions& numbers = keys.numbers;
  numbers.rotary_base = number_or("rope_theta", usual.numbers.rotary_base);
  keys.partial = number_or("partial_rotary_factor", usual.partial);
  const auto training_context = [&] {
    const char* const member = "original_max_position_embeddings";
    numbers.rotary_context =
        static_cast<double>(has(member) ? object.integer(member, 1, 1 << 30) : Index{context});
  };
  if (kind == "default") {
    keys.scaling = RotaryScaling::none;
  } else if (kind == "dynamic") {
    // It begins beyond max_position_embeddings, which is the context here: up to there it is "default".
    if (!(object.number("factor") >= 1)) reject_file(object.name(), "\"factor\" is below 1");
    used.insert("factor");
  } else if (kind == "linear") {
    keys.scaling = RotaryScaling::linear;
    used.insert("factor");
    numbers.rotary_factor = object.number("factor");
  } else if (kind == "yarn") {
    keys.scaling = RotaryScaling::yarn;
    training_context();
    numbers.rotary_factor = number_or("factor", context / numbers.rotary_context);
    const double fast = number_or("beta_fast", 0), slow = number_or("beta_slow", 0);
    if (fast != 0) numbers.rotary_fast = fast;
    if (slow != 0) numbers.rotary_slow = slow;
    const double all = number_or("mscale_all_dim", 0), some = number_or("mscale", 0);
    const auto length = [&](double scale) { return 0.1 * scale * std::log(numbers.rotary_factor) + 1; };
    if (all != 0 && some != 0) numbers.rotary_magnitude = length(some) / length(all);
    if (has("attention_factor")) {
      numbers.rotary_magnitude = object.number("attention_factor");
      if (!(numbers.rotary_magnitude > 0))
        reject_file(object.name(), "\"attention_factor\" is ", numbers.rotary_magnitude,
                    ", expected a number above 0");
    }
    if (has("truncate") && !object.boolean("truncate"))
      reject_file(object.name(), "\"truncate\" is false, which is not supported; expected true");
  } else if (kind == "llama3") {
    keys.scaling = RotaryScaling::llama3;
    training_context();
    for (const char* member : {"factor", "low_freq_factor", "high_freq_factor"}) used.insert(member);
    numbers.rotary_factor = object.number("factor");
    numbers.rotary_slow = object.number("low_freq_factor");
    numbers.rotary_fast = object.number("high_freq_factor");
  } else {
    reject_file(object.name(), "\"rope_type\" is ", shown(kind),
                ", which is not supported; expected default, linear, dynamic, yarn or llama3");
  }
  for (const auto& [member, value] : json.items())
    if (!used.contains(member))
      reject_file(object.name(), "the member ", shown(member), " (", shown(value.dump()),
                  ") is not known for \"rope_type\" ", shown(kind));
  return keys;
}

// The object of a model's rotary parameters. `partial`: not 1 for families that have partial_rotary_factor.
inline nlohmann::ordered_json rotary_json(const Config& c, const ModelOptions& options, bool partial) {
  nlohmann::ordered_json json = {{"rope_type", "default"}, {"rope_theta", options.rotary_base}};
  const AttentionShape shape = c.attention();
  if (partial) {
    const double width = shape.width();
    double share = shape.rotary_width() / width;
    while (static_cast<int>(width * share) < shape.rotary_width()) share = std::nextafter(share, 2);
    json["partial_rotary_factor"] = share;
  }
  if (c.rotary_scaling == RotaryScaling::none || c.rotary_scaling == RotaryScaling::ntk) return json;
  json["factor"] = options.rotary_factor;
  if (c.rotary_scaling == RotaryScaling::linear) {
    json["rope_type"] = "linear";
    return json;
  }
  json["original_max_position_embeddings"] = static_cast<Index>(options.rotary_context);
  const bool yarn = c.rotary_scaling == RotaryScaling::yarn;
  json["rope_type"] = yarn ? "yarn" : "llama3";
  json[yarn ? "beta_fast" : "high_freq_factor"] = options.rotary_fast;
  json[yarn ? "beta_slow" : "low_freq_factor"] = options.rotary_slow;
  if (yarn && options.rotary_magnitude > 0) json["attention_factor"] = options.rotary_magnitude;
  return json;
}

}  // namespace huggingface

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
