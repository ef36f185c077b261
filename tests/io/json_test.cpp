#include <moegpt/io/json.hpp>

#include "support.hpp"

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
