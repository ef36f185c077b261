#include <moegpt/io/json.hpp>

#include "support.hpp"

#include <nlohmann/json.hpp>

#include <map>

using namespace moegpt;

TEST_CASE("a quoted text escapes quotes, backslashes and control characters and nothing else") {
  CHECK(json_quoted("plain \"quotes\" \\ \xc3\xa9 \x7f") == "\"plain \\\"quotes\\\" \\\\ \xc3\xa9 \x7f\"");
  CHECK(json_quoted(std::string("\0\n\x1f", 3)) == "\"\\u0000\\u000a\\u001f\"");
}

TEST_CASE("a text is shown without control characters and truncated between characters") {
  CHECK(shown("a\tb") == "'a?b'");
  CHECK(shown("abcdef", 3) == "'abc...'");
  CHECK(shown("ab\xc3\xa9", 3) == "'ab...'");
  CHECK(shown("ab\xc3\xa9", 4) == "'ab\xc3\xa9'");
  CHECK(shown(std::string(100, '\x80')) == "'...'");
}

TEST_CASE("a shape is shown as a list") {
  CHECK(shown(std::array<Index, 2>{3, 4}) == "[3, 4]");
  CHECK(shown(std::array<Index, 0>{}) == "[]");
}

TEST_CASE("JsonText writes what a JSON reader reads, in one line or a member in each") {
  const std::map<std::string, std::vector<int>> nested{{"a", {1, 2}}, {"b", {}}};
  const std::vector<std::pair<std::string, std::string>> none;
  const auto write = [&](JsonText& json) {
    json.member("whole", -3).member("real", 0.1).member("float", 0.1f).member("large", 1e300);
    json.member("flag", true).member("text", "a\"\n\xff").member("none", none).member("nested", nested);
    json.member("nan", std::nan("")).member("inf", -std::numeric_limits<double>::infinity());
    json.list("squares", std::vector<int>{1, 2, 3}, [](int x) { return x * x; }).end();
  };
  std::string line, lines;
  JsonText one(line), each(lines, JsonText::Lines::each);
  write(one), write(each);
  CHECK(line == R"({"whole":-3,"real":0.1,"float":0.1,"large":1e+300,"flag":true,"text":"a\"\u000a)"
                "\ufffd"
                R"(","none":{},"nested":{"a":[1,2],"b":[]},"nan":"nan","inf":"-inf","squares":[1,4,9]})");
  CHECK(lines.substr(0, 31) == "{\n  \"whole\": -3,\n  \"real\": 0.1,");
  CHECK(has(lines, "\"none\": {},\n  \"nested\": {\n    \"a\": [1,2],\n    \"b\": []\n  },\n"));
  CHECK(lines.ends_with("\n  \"squares\": [1,4,9]\n}"));
  CHECK(nlohmann::json::parse(line) == nlohmann::json::parse(lines));
}
