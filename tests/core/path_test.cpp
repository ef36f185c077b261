#include <moegpt/core/path.hpp>

#include "support/catch.hpp"

#include <string>

using namespace moegpt;

TEST_CASE("a path joins names and indices by points and forgets them again") {
  walk::Path path;
  CHECK(path.text() == "");
  const auto start = path.push("blocks");
  const auto blocks = path.push(10);
  path.push("");
  path.push("weight");
  CHECK(path.text() == "blocks.10.weight");
  CHECK(path.name() == "weight");
  path.pop(blocks);
  CHECK(path.text() == "blocks");
  path.push(0);
  CHECK(path.text() == "blocks.0");
  path.pop(start);
  CHECK((path.text() == "" && path.name() == ""));
}

TEST_CASE("a name beyond 254 characters is left out of a path") {
  walk::Path path;
  path.push(std::string(250, 'a'));
  path.push("longer");
  CHECK(path.text().size() == 250);
  path.push("bcd");
  CHECK(path.text().substr(250) == ".bcd");
  path.push(1);
  CHECK(path.text().size() == 254);
}
