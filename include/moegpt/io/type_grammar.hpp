#pragma once
// The names that the text of a model type may have: a table with a rule for each type, struct of options and
// enumeration of the library, in the form that files hold. Limits of its numbers.
#include <moegpt/core/build.hpp>

#include <cstdint>
#include <span>
#include <string_view>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct TypeLimits {
  static constexpr std::size_t text_bytes = 4096;
  static constexpr int depth = 12;  // of nested types
};

namespace types {

// What stands at one place: `of` is "number" (from least to most), "flag", "ratio", "layers", or a rule or
// kind of rules. Of an enumeration a place is the name of an enumerator.
struct Place {
  std::string_view name, of = {};
  std::int64_t least = 0, most = 0;
  bool required = false;
};

// A name that may stand in a type: its kind and its parameters, fields or enumerators.
struct Rule {
  std::string_view name, kind;
  Place places[32] = {};

  constexpr std::span<const Place> all() const {
    std::size_t count = 0;
    while (count < std::size(places) && !places[count].name.empty()) ++count;
    return {places, count};
  }
};

constexpr Place number(std::string_view name, std::int64_t most, std::int64_t least = 1) {
  return {name, "number", least, most, true};
}
constexpr Place optional(Place place) {
  place.required = false;
  return place;
}
constexpr Place type(std::string_view name, std::string_view of) { return {name, of, 0, 0, true}; }

inline constexpr std::int64_t most_layers = 4096, most_context = 1 << 20, most_width = 1 << 20,
                              most_ratio = 1'000'000'000;
// Of routers in which tokens choose, and of others.
inline constexpr Place few_experts = number("experts", 1024), experts = number("experts", 1 << 16);
inline constexpr Place choices = number("choices", 1024), router = type("router", "router");

// Files hold these names, so they follow to_text of a Config and text() of each router specification.
inline constexpr Rule rules[] = {
    {"GPT", "model", {type("config", "Config"), type("router", "router")}},
    {"Transformer", "model", {type("config", "Config"), type("router", "router")}},
    {"Config",
     "options",
     {number("vocab", 1 << 22),
      number("context", most_context),
      number("dim", 1 << 18),
      number("layers", most_layers),
      number("heads", 1 << 12),
      optional(number("kv_heads", 1 << 12, 0)),
      optional(number("head_dim", 1 << 16, 0)),
      optional(number("hidden", most_width, 0)),
      optional(number("dense_hidden", most_width, 0)),
      {"mask", "Mask"},
      optional(number("window", most_context, 0)),
      {"window_at", "layers"},
      {"local", "Local"},
      optional(number("stride", most_context, 0)),
      {"norm", "Norm"},
      {"residual", "Residual"},
      {"positions", "Positions"},
      {"query_key_norm", "QueryKeyNorm"},
      optional(number("rotary_dim", 1 << 16, 0)),
      {"pairing", "Pairing"},
      {"rotary_scaling", "RotaryScaling"},
      {"activation", "Activation"},
      {"gated", "flag"},
      {"attention_bias", "flag"},
      {"output_bias", "flag"},
      {"expert_bias", "flag"},
      {"head_bias", "flag"},
      {"tied", "flag"},
      optional(number("adapter_rank", most_width, 0)),
      optional(number("dense_first", most_layers, 0)),
      optional(number("moe_every", most_layers)),
      {"mixture_at", "layers"}}},
    {"Mask", "enumeration", {{"causal"}, {"full"}}},
    {"Local", "enumeration", {{"window"}, {"block"}, {"two_blocks"}}},
    {"Norm", "enumeration", {{"layer"}, {"rms"}}},
    {"Residual", "enumeration", {{"pre_norm"}, {"post_norm"}, {"no_norm"}}},
    {"Positions", "enumeration", {{"learned"}, {"rotary"}}},
    {"QueryKeyNorm", "enumeration", {{"none"}, {"head"}, {"full"}}},
    {"Pairing", "enumeration", {{"halves"}, {"adjacent"}}},
    {"RotaryScaling", "enumeration", {{"none"}, {"linear"}, {"ntk"}, {"yarn"}, {"llama3"}}},
    {"Activation", "enumeration", {{"gelu"}, {"gelu_erf"}, {"relu"}, {"silu"}, {"tanh"}}},

    {"Dense", "router"},
    {"TopKRouter", "router", {few_experts, choices, {"options", "TopK"}}},
    {"TopK", "options", {{"gates", "Gates"}, {"bias", "flag"}, {"selection_bias", "flag"}}},
    {"Gates", "enumeration", {{"renormalised"}, {"probability"}}},
    {"TopKRouterWith", "router", {few_experts, choices, type("gates", "gate rule"), {"bias", "flag"}}},
    {"PNormGates", "gate rule", {number("P", 64), {"scale", "ratio"}}},
    {"TopPRouter", "router", {few_experts, choices, {"p", "ratio"}, {"gates", "Gates"}}},
    {"NoisyTopKRouter", "router", {few_experts, choices, {"options", "NoisyTopK"}}},
    {"NoisyTopK", "options", {{"bias", "flag"}, {"noise_floor", "flag"}, {"detached_threshold", "flag"}}},
    {"SigmoidRouter", "router", {few_experts, choices, {"options", "Sigmoid"}, {"scale", "ratio"}}},
    {"Sigmoid",
     "options",
     {{"normalise", "flag"},
      {"selection_bias", "flag"},
      optional(number("groups", 1024)),
      optional(number("groups_kept", 1024, 0)),
      {"root_softplus", "flag"}}},
    {"CosineRouter",
     "router",
     {few_experts, choices, optional(number("width", 1 << 16)), {"gates", "Gates"}}},
    {"GShardRouter", "router", {few_experts, {"second", "Second"}, {"threshold", "ratio"}}},
    {"Second", "enumeration", {{"all"}, {"none"}, {"threshold"}, {"random"}}},
    {"AllExperts", "router", {few_experts, {"bias", "flag"}}},
    {"HashRouter", "router", {experts, optional(choices)}},
    {"ExpertChoiceRouter",
     "router",
     {experts, optional(number("average", 1 << 16)), {"options", "ExpertChoice"}}},
    {"ExpertChoice", "options", {{"group", "Group"}, {"thresholds", "flag"}}},
    {"SoftMoE", "router", {experts, optional(number("slots", 1 << 20))}},
    {"HierarchicalRouter", "router", {type("outer", "router"), type("inner", "router")}},

    {"AllowNonCausal", "router", {router}},
    {"AllowConstantGate", "router", {router}},
    {"InputJitter", "router", {router, {"epsilon", "ratio"}}},
    {"Masked", "router", {router, optional(number("tasks", 4096))}},
    {"SharedExperts", "router", {router, optional(number("count", 1024)), {"how", "Shared"}}},
    {"Shared", "enumeration", {{"plain"}, {"gated"}, {"weighted"}}},
    {"WithSharedProjection", "router", {router, number("width", most_width), {"activation", "Activation"}}},
    {"Dropping", "router", {router, type("order", "Drop"), {"among", "Group"}, {"rounding", "Round"}}},
    {"Drop", "enumeration", {{"token_order"}, {"slot_major"}, {"batch_prioritised"}, {"probability"}}},
    {"Group", "enumeration", {{"batch"}, {"sequence"}, {"position"}}},
    {"Round", "enumeration", {{"down"}, {"up"}}},
};

constexpr const Rule* find_rule(std::string_view name) {
  for (const Rule& rule : rules)
    if (rule.name == name) return &rule;
  return nullptr;
}

consteval bool places_are_known() {
  for (const Rule& rule : rules) {
    if (rule.kind == "enumeration") continue;
    for (const Place& place : rule.all()) {
      bool known = place.of == "number" || place.of == "flag" || place.of == "ratio" || place.of == "layers";
      for (const Rule& other : rules) known = known || place.of == other.name || place.of == other.kind;
      if (!known) return false;
    }
  }
  return true;
}
static_assert(places_are_known(), "a place of the grammar is of a kind that no rule has");

}  // namespace types

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
