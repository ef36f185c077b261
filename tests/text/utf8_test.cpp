#include <moegpt/text/utf8.hpp>

#include "support/catch.hpp"

using namespace moegpt;

TEST_CASE("every character is read as it was appended") {
  for (const char32_t c :
       {0x0u, 0x7fu, 0x80u, 0x7ffu, 0x800u, 0xd7ffu, 0xe000u, 0xffffu, 0x10000u, 0x10ffffu}) {
    std::string text = "x";
    utf8::append(text, c);
    const utf8::Character read = utf8::read(text, 1);
    CHECK(read.value == c);
    CHECK(read.bytes == text.size() - 1);
    CHECK(utf8::first_invalid(text) == std::string_view::npos);
  }
}

TEST_CASE("what RFC 3629 forbids is not read") {
  for (const char* bad : {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xc3", "\xe4\xb8", "\xc3x"}) {
    CHECK(utf8::read(bad, 0).bytes == 0);
    CHECK(utf8::first_invalid(bad) == 0);
  }
}

TEST_CASE("characters of a text come with their offsets") {
  std::string seen;
  utf8::for_each_character("a\u00e9\u4e2d", [&](char32_t c, std::size_t at) {
    seen += std::to_string(at) + ":" + utf8::shown(c) + " ";
  });
  CHECK(seen == "0:a 1:\u00e9 3:\u4e2d ");
  CHECK(utf8::shown(U'\n') == "\\n");
  CHECK(utf8::shown(0x9b) == "U+009B");
}
