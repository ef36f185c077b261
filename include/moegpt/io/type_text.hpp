#pragma once
// A model's type as text, by a closed grammar: names of the library, numbers within limits, nothing else.
// parse_type reads the text of to_text<Model>(), of a file for instance, into a tree of numbers and of names
// of the tables below. The text of the tree is written from these alone, so nothing else of a file reaches a
// compiler or a shell.
//   type     name  or  name<value, ...>
//   options  name{.field = value, ...}       fields in their order
//   value    123   true   Enum::name   std::ratio<1, 2>   {0, 2}   options   type
#include <moegpt/io/safetensors.hpp>
#include <moegpt/model/config.hpp>

#include <cstdint>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// A node: a number, a name of the tables, or a name with parts. `open` and `close` are the brackets around
// the parts; 0: none.
struct TypeTree {
  std::string_view field = {};  // in options
  std::string_view name = {};   // empty for numbers and lists
  std::string_view value = {};  // an enumerator, `true` or `false`
  std::int64_t number = 0;
  char open = 0, close = 0;
  std::vector<TypeTree> parts = {};

  // The part that is the field of this name, null if it is left out.
  const TypeTree* find(std::string_view wanted) const {
    for (const TypeTree& part : parts)
      if (part.field == wanted) return &part;
    return nullptr;
  }
};

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
      {"norm", "Norm"},
      {"residual", "Residual"},
      {"positions", "Positions"},
      {"activation", "Activation"},
      {"gated", "flag"},
      {"attention_bias", "flag"},
      {"output_bias", "flag"},
      {"expert_bias", "flag"},
      {"head_bias", "flag"},
      {"tied", "flag"},
      optional(number("dense_first", most_layers, 0)),
      optional(number("moe_every", most_layers)),
      {"mixture_at", "layers"}}},
    {"Mask", "enumeration", {{"causal"}, {"full"}}},
    {"Norm", "enumeration", {{"layer"}, {"rms"}}},
    {"Residual", "enumeration", {{"pre_norm"}, {"post_norm"}, {"no_norm"}}},
    {"Positions", "enumeration", {{"learned"}, {"rotary"}}},
    {"Activation", "enumeration", {{"gelu"}, {"gelu_erf"}, {"relu"}, {"silu"}, {"tanh"}}},

    {"Dense", "router"},
    {"TopKRouter", "router", {few_experts, choices, {"options", "TopK"}}},
    {"TopK", "options", {{"gates", "Gates"}, {"bias", "flag"}, {"selection_bias", "flag"}}},
    {"Gates", "enumeration", {{"renormalised"}, {"probability"}}},
    {"TopKRouterWith", "router", {few_experts, choices, type("gates", "gate rule"), {"bias", "flag"}}},
    {"PNormGates", "gate rule", {number("P", 64)}},
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

// Recursive descent, one function for each line of the grammar.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  TypeTree model() {
    if (text_.size() > TypeLimits::text_bytes)
      reject("the text of a model type has ", text_.size(), " bytes, expected at most ",
             TypeLimits::text_bytes);
    TypeTree tree = named({"model", "model"});
    if (peek() != 0) fail("the end");
    return tree;
  }

 private:
  TypeTree value(const Place& place) {
    if (place.of == "number") return whole(place);
    if (place.of == "flag") return flag();
    if (place.of == "ratio") return ratio();
    if (place.of == "layers") return layers();
    return named(place);
  }

  TypeTree whole(const Place& place) {
    const std::size_t begin = skip_spaces();
    TypeTree tree;
    const auto [end, error] = std::from_chars(text_.data() + begin, text_.data() + text_.size(), tree.number);
    at_ = static_cast<std::size_t>(end - text_.data());
    const bool padded = text_.substr(begin, 1) == "0" && at_ - begin > 1;
    if (error != std::errc{} || padded || tree.number < place.least || tree.number > place.most) {
      at_ = begin;
      fail(std::string(place.name) + ", a decimal number from " + std::to_string(place.least) + " to " +
           std::to_string(place.most));
    }
    return tree;
  }

  TypeTree flag() {
    for (const std::string_view known : {"true", "false"})
      if (take_word(known)) return {.value = known};
    fail("true or false");
  }

  TypeTree ratio() {
    static constexpr std::string_view name = "std::ratio";
    static constexpr Place above{"numerator", "number", 1, most_ratio},
        below{"denominator", "number", 1, most_ratio};
    if (!take("std") || !take("::") || !take_word("ratio")) fail("std::ratio<...>");
    TypeTree tree{.name = name, .open = '<', .close = '>'};
    expect('<');
    tree.parts.push_back(whole(above));
    if (take(",")) tree.parts.push_back(whole(below));
    expect('>');
    return tree;
  }

  // Layers in ascending order.
  TypeTree layers() {
    TypeTree tree{.open = '{', .close = '}'};
    expect('{');
    do {
      const std::int64_t next = tree.parts.empty() ? 0 : tree.parts.back().number + 1;
      tree.parts.push_back(whole({"layer", "number", next, LayerSet::most - 1}));
    } while (take(","));
    expect('}');
    return tree;
  }

  // A type, options or an enumerator that a rule names.
  TypeTree named(const Place& place) {
    if (++depth_ > TypeLimits::depth) fail("at most " + std::to_string(TypeLimits::depth) + " nested types");
    const Rule& rule = rule_for(place);
    TypeTree tree{.name = rule.name};
    if (rule.kind == "enumeration")
      tree.value = enumerator(rule);
    else if (rule.kind == "options")
      fields(rule, tree);
    else
      arguments(rule, tree);
    --depth_;
    return tree;
  }

  const Rule& rule_for(const Place& place) {
    for (const Rule& rule : rules)
      if ((rule.name == place.of || rule.kind == place.of) && take_word(rule.name)) return rule;
    std::string known;
    for (const Rule& rule : rules)
      if (rule.name == place.of || rule.kind == place.of) (known += known.empty() ? "" : ", ") += rule.name;
    fail(std::string(place.name) + ", one of " + known);
  }

  std::string_view enumerator(const Rule& rule) {
    std::string known;
    if (take("::"))
      for (const Place& place : rule.all())
        if (take_word(place.name)) return place.name;
    for (const Place& place : rule.all()) (known += known.empty() ? "::" : ", ::") += place.name;
    fail("one of " + known);
  }

  void arguments(const Rule& rule, TypeTree& tree) {
    if (rule.all().empty()) return;
    tree.open = '<', tree.close = '>';
    expect('<');
    for (const Place& place : rule.all()) {
      if (!place.required && peek() != ',') break;
      if (!tree.parts.empty()) expect(',');
      tree.parts.push_back(value(place));
    }
    expect('>');
  }

  void fields(const Rule& rule, TypeTree& tree) {
    tree.open = '{', tree.close = '}';
    expect('{');
    for (const Place& place : rule.all()) {
      const std::size_t before = at_;
      if ((tree.parts.empty() || take(",")) && take(".") && take_word(place.name)) {
        expect('=');
        tree.parts.push_back(value(place));
        tree.parts.back().field = place.name;
      } else {
        at_ = before;
        if (place.required) fail("." + std::string(place.name) + " = ...");
      }
    }
    if (!take("}")) fail("} or a later field of " + std::string(rule.name));
  }

  std::size_t skip_spaces() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    return at_;
  }
  char peek() {
    skip_spaces();
    return at_ < text_.size() ? (text_[at_] == 0 ? '?' : text_[at_]) : '\0';
  }
  bool take(std::string_view symbol) {
    skip_spaces();
    if (!text_.substr(at_).starts_with(symbol)) return false;
    at_ += symbol.size();
    return true;
  }
  bool take_word(std::string_view word) {
    const std::size_t before = at_;
    if (!take(word)) return false;
    const char next = at_ < text_.size() ? text_[at_] : ' ';
    const bool goes_on = (next >= 'a' && next <= 'z') || (next >= 'A' && next <= 'Z') ||
                         (next >= '0' && next <= '9') || next == '_';
    if (goes_on) at_ = before;
    return !goes_on;
  }
  void expect(char symbol) {
    if (!take({&symbol, 1})) fail({&symbol, 1});
  }
  [[noreturn]] void fail(const std::string& expected) {
    skip_spaces();
    const std::string_view rest = text_.substr(at_);
    reject("the text of a model type has ", rest.empty() ? "its end" : shown(rest, 24), " at byte ", at_,
           ", expected ", expected);
  }

  std::string_view text_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace types

// Reads the text of a model type. Throws std::invalid_argument that states the byte, what was found and what
// was expected.
inline TypeTree parse_type(std::string_view text) { return types::Parser(text).model(); }

// The C++ text of a tree.
inline std::string to_text(const TypeTree& tree) {
  std::string text;
  if (!tree.field.empty()) ((text += '.') += tree.field) += " = ";
  text += tree.name;
  if (!tree.value.empty()) (text += tree.name.empty() ? "" : "::") += tree.value;
  if (tree.open != 0) {
    text += tree.open;
    for (const TypeTree& part : tree.parts) (text += &part == tree.parts.data() ? "" : ", ") += to_text(part);
    text += tree.close;
  } else if (tree.name.empty() && tree.value.empty()) {
    text += std::to_string(tree.number);
  }
  return text;
}

namespace types {

// Experts of one MoE layer.
inline double experts_of(const TypeTree& recipe) {
  if (recipe.parts.empty()) return 0;  // Dense
  const TypeTree& first = recipe.parts[0];
  if (recipe.name == "HierarchicalRouter") return experts_of(first) * experts_of(recipe.parts[1]);
  return first.name.empty() ? static_cast<double>(first.number) : experts_of(first);
}

// Weights that an MoE layer has beside the matrices of its routed experts: those whose number is an argument
// of the type. expert: weights of an expert of the Config.
inline double extra_weights(const TypeTree& recipe, double dim, double expert) {
  const auto argument = [&](std::size_t i) {
    return i < recipe.parts.size() ? static_cast<double>(recipe.parts[i].number) : 1;
  };
  double sum = 0;
  for (const TypeTree& part : recipe.parts) sum += extra_weights(part, dim, expert);
  if (recipe.name == "CosineRouter" && recipe.parts.size() > 2) sum += argument(2) * dim;
  if (recipe.name == "SoftMoE") sum += argument(0) * argument(1) * dim;
  if (recipe.name == "Masked") sum += argument(1) * experts_of(recipe);
  if (recipe.name == "SharedExperts") sum += argument(1) * expert;
  if (recipe.name == "WithSharedProjection") sum += argument(1) * dim;
  return sum;
}

inline const TypeTree* find_type(const TypeTree& tree, std::string_view name) {
  if (tree.name == name) return &tree;
  for (const TypeTree& part : tree.parts)
    if (const TypeTree* found = find_type(part, name)) return found;
  return nullptr;
}

}  // namespace types

// A lower bound of the number of weights of a model type: its matrices, without biases and norms. It is a
// double, because a product of extents within the limits may exceed 64 bits.
inline double least_weights(const TypeTree& model) {
  const TypeTree &config = model.parts[0], &recipe = model.parts[1];
  const auto extent = [&](std::string_view field, double usual = 0) {
    const TypeTree* found = config.find(field);
    return found && found->number > 0 ? static_cast<double>(found->number) : usual;
  };
  const auto is = [&](std::string_view field, std::string_view value) {
    const TypeTree* found = config.find(field);
    return found && found->value == value;
  };
  const double dim = extent("dim"), layers = extent("layers"), heads = extent("heads");
  const double head_dim = extent("head_dim", std::floor(dim / heads));
  const double attention = 2 * (heads + extent("kv_heads", heads)) * head_dim * dim;
  const double width = extent("hidden", 4 * dim), maps = is("gated", "true") ? 3 : 2;
  const double dense = maps * extent("dense_hidden", width) * dim, expert = maps * width * dim;

  const double after = std::max(0.0, layers - extent("dense_first"));
  const TypeTree* listed = config.find("mixture_at");
  double mixtures =
      listed ? static_cast<double>(listed->parts.size()) : std::floor(after / extent("moe_every", 1));
  if (recipe.name == "Dense") mixtures = 0;
  const TypeTree* projected = types::find_type(recipe, "WithSharedProjection");
  const double routed = projected ? static_cast<double>(projected->parts[1].number) * dim : expert;

  const double ends = extent("vocab") * dim * (model.name == "GPT" && !is("tied", "true") ? 2 : 1) +
                      (is("positions", "rotary") ? 0 : extent("context") * dim);
  return ends + layers * attention + (layers - mixtures) * dense +
         mixtures * (types::experts_of(recipe) * routed + types::extra_weights(recipe, dim, expert));
}

// Throws std::runtime_error if a model of the type has more weights than the file has numbers. A program for
// the type would otherwise allocate them before it reads the file.
inline void check_size(const TypeTree& model, const SafetensorsFile& file) {
  double numbers = 0;
  for (const auto& [name, tensor] : file.header.tensors) {
    double count = 1;
    for (const Index extent : tensor.shape) count *= static_cast<double>(extent);
    numbers += count;
  }
  if (const double least = least_weights(model); least > numbers)
    reject_file(file.name, "states a type of at least ", least, " weights, but has ", numbers,
                " numbers: ", to_text(model));
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
