#include <moegpt/io/json_document.hpp>

#include "support.hpp"

using namespace moegpt;

TEST_CASE("a JSON document may have so many levels and no more") {
  CHECK(parse_json("file", "[[[1]]]", 3).size() == 1);
  CHECK(error_of([] { parse_json("file", "[[[1]]]", 2); }) ==
        "moegpt: file: is JSON of more than 2 levels, expected at most 2");
  CHECK(has(error_of([] { parse_json("file", std::string(1000000, '[')); }), "levels"));
}

TEST_CASE("a JSON document with a name twice, or that is not JSON, is refused") {
  CHECK(error_of([] { parse_json("file", R"({"a": 1, "b": {"a": 2}, "a": 3})"); }) ==
        "moegpt: file: has the member 'a' twice in one object");
  CHECK(parse_json("file", R"([{"a": 1}, {"a": 2}])").size() == 2);
  const char* const wrong[] = {"", "{", "{\"a\":}", "[1,]", "nul", "1e999", "\"\xff\"", "{} {}", "[1]\n]"};
  for (const char* text : wrong) {
    INFO(text);
    CHECK(has(error_of([&] { parse_json("file", text); }), "moegpt: file: is not valid JSON"));
  }
}

TEST_CASE("members of a JSON object have the type and range that is asked for") {
  const nlohmann::json document =
      parse_json("file",
                 R"({"n": 3, "x": 0.5, "e": 1e3, "s": "t", "b": true, "l": [1, 2], "m": [1, -2],
                  "big": 18446744073709551615,
                  "nan": "nan", "inf": "-inf"})");
  const JsonObject object("file", document);
  CHECK(object.integer("n") == 3);
  CHECK(object.number("n") == 3);
  CHECK(object.number("x") == 0.5);
  CHECK(std::isnan(object.number("nan")));
  CHECK(object.number("inf") == -INFINITY);
  CHECK(object.text("s") == "t");
  CHECK(object.boolean("b"));
  CHECK(object.integers("l", 0, 2) == std::vector<Index>{1, 2});
  CHECK(error_of([&] { object.integer("none"); }) == "moegpt: file: has no member \"none\"");
  CHECK(error_of([&] { object.integer("x"); }) == "moegpt: file: \"x\" is number, expected a whole number");
  CHECK(has(error_of([&] { object.integer("e"); }), "expected a whole number"));
  CHECK(has(error_of([&] { object.integer("n", 4, 9); }), "\"n\" is '3', expected 4 .. 9"));
  CHECK(has(error_of([&] { object.integer("big"); }), "'18446744073709551615', expected 0 .. "));
  CHECK(has(error_of([&] { object.integers("m", 0, 9); }), "\"m\" is '-2', expected 0 .. 9"));
  CHECK(has(error_of([&] { object.integers("n", 0, 9); }), "expected a list"));
  CHECK(has(error_of([&] { object.number("s"); }), "expected a number"));
  CHECK(has(error_of([&] { object.text("n"); }), "expected a text"));
  CHECK(has(error_of([&] { object.boolean("n"); }), "expected true or false"));
  CHECK(has(error_of([&] { JsonObject("list", document["l"]); }), "list: is array, expected an object"));
}
