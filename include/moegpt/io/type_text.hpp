#pragma once
// A model's type as text, by a closed grammar: names of the library, numbers within limits, nothing else.
// parse_type reads the text of to_text<Model>(), of a file for instance, into a tree of numbers and of names
// of io/type_grammar.hpp. The text of the tree is written from these alone, so nothing else of a file reaches
// a compiler or a shell.
//   type     name  or  name<value, ...>
//   options  name{.field = value, ...}       fields in their order
//   value    123   true   Enum::name   std::ratio<1, 2>   {0, 2}   options   type
#include <moegpt/io/json.hpp>
#include <moegpt/io/type_grammar.hpp>
#include <moegpt/model/config.hpp>

#include <charconv>
#include <vector>

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

namespace types {

// Recursive descent, one function for each line of the grammar.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  TypeTree model() {
    if (text_.size() > TypeLimits::text_bytes)
      reject("the text of a model type has ", text_.size(), " bytes, expected at most ",
             TypeLimits::text_bytes);
    TypeTree tree = named({"model", "model"});
    if (skip_spaces() != text_.size()) fail("the end");
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
    const bool decimal =
        error == std::errc{} && text_.substr(begin, at_ - begin) == std::to_string(tree.number);
    if (!decimal || tree.number < place.least || tree.number > place.most) {
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
    if (!take_word("std::ratio")) fail("std::ratio<...>");
    TypeTree tree{.name = "std::ratio", .open = '<', .close = '>'};
    expect('<');
    tree.parts.push_back(whole(number("numerator", most_ratio)));
    if (take(",")) tree.parts.push_back(whole(number("denominator", most_ratio)));
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
      const bool goes_on = tree.parts.empty() || take(",");
      if (!goes_on && !place.required) break;
      if (!goes_on) fail(",");
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

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
