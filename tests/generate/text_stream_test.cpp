#include <moegpt/core/random.hpp>
#include <moegpt/generate/text_stream.hpp>

#include "support.hpp"

namespace {

struct Shown {
  std::vector<std::string> parts;  // of each push, and of finish
  std::string text;
  bool stopped;
};
Shown shown(std::string_view text, std::vector<std::string> stop = {}, std::size_t piece = 1) {
  TextStream stream(std::move(stop));
  Shown s{};
  for (std::size_t i = 0; i < text.size(); i += piece)
    s.parts.emplace_back(stream.push(text.substr(i, piece)));
  s.parts.emplace_back(stream.finish());
  s.text = stream.text();
  s.stopped = stream.stopped();
  return s;
}
std::string joined(const std::vector<std::string>& parts) {
  std::string all;
  for (const std::string& p : parts) all += p;
  return all;
}
using Parts = std::vector<std::string>;

}  // namespace

TEST_CASE("a character of two, three or four bytes is shown when its last byte arrives") {
  CHECK(shown("a\xc3\xa9"
              "b")
            .parts == Parts{"a", "", "\xc3\xa9", "b", ""});
  CHECK(shown("\xe2\x82\xac").parts == Parts{"", "", "\xe2\x82\xac", ""});
  CHECK(shown("\xf0\x9f\x98\x80").parts == Parts{"", "", "", "\xf0\x9f\x98\x80", ""});
}

TEST_CASE("bytes that no character can have are shown at once, and half a character at the end of the text") {
  CHECK(shown("\x80"
              "a\xff")
            .parts == Parts{"\x80", "a", "\xff", ""});
  CHECK(shown("\xc0\xe2\x41").parts == Parts{"\xc0", "",
                                             "\xe2"
                                             "A",
                                             ""});
  CHECK(shown("\xe0\x80").parts == Parts{"", "\xe0\x80", ""});  // overlong
  CHECK(shown("\xed\xa0").parts == Parts{"", "\xed\xa0", ""});  // a surrogate
  CHECK(shown("\xf4\x90").parts == Parts{"", "\xf4\x90", ""});  // above U+10FFFF
  CHECK(shown("a\xf0\x9f\x98").parts == Parts{"a", "", "", "", "\xf0\x9f\x98"});
}

TEST_CASE("every part of a valid text is valid, and all parts are the text, for pieces of any size") {
  Rng rng(3);
  for (int round = 0; round < 300; ++round) {
    std::string text, noise;
    for (int i = 0; i < 40; ++i) {
      const char32_t most[] = {0x80, 0x800, 0xd800, 0x110000};
      char32_t c = static_cast<char32_t>(rng.below(most[rng.below(4)]));
      if (c >= 0xd800 && c < 0xe000) c = U'x';
      utf8::append(text, c);
      noise += static_cast<char>(static_cast<unsigned char>(rng.below(256)));
    }
    for (const std::size_t piece : {1u, 2u, 3u, 5u}) {
      const Shown s = shown(text, {}, piece);
      for (const std::string& part : s.parts) REQUIRE(utf8::first_invalid(part) == std::string::npos);
      REQUIRE(joined(s.parts) == text);
      REQUIRE(joined(shown(noise, {}, piece).parts) == noise);
    }
  }
}

TEST_CASE("a stop string ends the text before it, and nothing of it is shown") {
  for (const std::size_t piece : {1u, 2u, 3u, 7u, 99u}) {
    const Shown s = shown("one two\n\nthree", {"\n\n"}, piece);
    CHECK(s.stopped);
    CHECK(s.text == "one two");
    CHECK(joined(s.parts) == "one two");
    const Shown first = shown("abcabdabe", {"abe", "abd"}, piece);  // the one that comes first in the text
    CHECK(first.text == "abc");
    CHECK(joined(first.parts) == "abc");
    const Shown none = shown("ababab", {"abac"}, piece);
    CHECK_FALSE(none.stopped);
    CHECK(joined(none.parts) == "ababab");
  }
  CHECK(shown("aab", {"ab"}).parts == Parts{"", "a", "", ""});
  CHECK(shown("xay", {"ab"}).parts == Parts{"x", "", "ay", ""});
  CHECK(shown("xa", {"ab"}).parts == Parts{"x", "", "a"});
}

TEST_CASE("after a stop string nothing more is taken, and an empty one is refused") {
  TextStream stream({"b"});
  CHECK(stream.push("abc") == "a");
  CHECK(stream.push("d").empty());
  CHECK(stream.finish().empty());
  CHECK(stream.text() == "a");
  CHECK(contains(refusal([] { TextStream({"a", ""}); }), "a stop string is empty"));
}
