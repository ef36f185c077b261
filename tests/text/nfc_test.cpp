#include <moegpt/text/nfc.hpp>

#include "../support/catch.hpp"

using namespace moegpt;
using unicode::to_nfc;

TEST_CASE("characters compose with the marks behind them") {
  CHECK(to_nfc("plain text, caf\u00e9") == "plain text, caf\u00e9");
  CHECK(to_nfc("cafe\u0301 \u0301x") == "caf\u00e9 \u0301x");
  CHECK(to_nfc("\u212b") == "\u00c5");                    // a character of one other character
  CHECK(to_nfc("u\u0308\u0304") == "\u01d6");             // composes twice
  CHECK(to_nfc("\u0958") == "\u0915\u093c");              // excluded from composition
  CHECK(to_nfc("\u1100\u1161\u11a8") == "\uac01");        // Hangul
  CHECK(to_nfc("\uac00\u11a8\u11a8") == "\uac01\u11a8");  // one trailing consonant
}

TEST_CASE("marks are brought into the order of their classes, and one of equal class blocks the next") {
  CHECK(to_nfc("q\u0307\u0323") == "q\u0323\u0307");
  CHECK(to_nfc("a\u0323\u0307") == "\u1ea1\u0307");
  CHECK(to_nfc("e\u0302\u0301") == "\u1ebf");
  CHECK(to_nfc("a\u0305\u0301") == "a\u0305\u0301");  // both of class 230
}

TEST_CASE("the form is reached in one pass, and bytes that are not UTF-8 stay") {
  const std::string text = "x\u0323\u0307\xff\u0301e\u0301\xc3";
  CHECK(to_nfc(to_nfc(text)) == to_nfc(text));
  CHECK(to_nfc("e\xff\u0301") == "e\xff\u0301");
}
