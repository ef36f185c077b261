#include <moegpt/text/unicode_classes.hpp>

#include "support/catch.hpp"

using namespace moegpt;
using unicode::Class;
using unicode::class_of;

TEST_CASE("characters have the classes of their general category") {  // split_test compares all with PCRE2
  for (const char32_t c :
       {U'a', U'Z', U'\u00aa', U'\u00e9', U'\u4e2d', U'\u0e01', U'\U0001d400', U'\U0003134a'})
    CHECK(class_of(c) == Class::letter);
  for (const char32_t c : {U'0', U'9', U'\u00b2', U'\u0663', U'\u2167', U'\U0001d7ff'})
    CHECK(class_of(c) == Class::number);
  for (const char32_t c : {U'\t', U'\r', U' ', U'\u0085', U'\u00a0', U'\u2028', U'\u3000'})
    CHECK(class_of(c) == Class::space);
  for (const char32_t c :
       {U'!', U'_', U'\u0001', U'\u0301', U'\u180e', U'\u200b', U'\U0001f642', U'\U0010ffff'})
    CHECK(class_of(c) == Class::other);
}

TEST_CASE("ranges include their first and last characters and no neighbours") {
  CHECK(class_of(0x2bf) == Class::letter);
  CHECK(class_of(0x2c1) == Class::letter);
  CHECK(class_of(0x2c2) == Class::other);
  CHECK(class_of(0x65f) == Class::other);
  CHECK(class_of(0x660) == Class::number);
  CHECK(class_of(0x669) == Class::number);
  CHECK(class_of(0x66a) == Class::other);
}
