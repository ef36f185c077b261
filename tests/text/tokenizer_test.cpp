#include <moegpt/text/tokenizer.hpp>

#include "../support/catch.hpp"

using namespace moegpt;

namespace {

// The message of the std::invalid_argument that f throws; empty if it throws none.
template <class F>
std::string refusal(F f) {
  try {
    f();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("characters are numbered in ascending order, as by sorted(set(text))") {
  const Tokenizer tokenizer = Tokenizer::characters("hello world\n");
  // sorted(set("hello world\n")) in Python: '\n', ' ', d, e, h, l, o, r, w
  CHECK(tokenizer.vocab() == 9);
  CHECK(tokenizer.encode("hello\n") == std::vector<int>{4, 3, 5, 5, 6, 0});
}

TEST_CASE("decode inverts encode for characters of one, two, three and four bytes") {
  const std::string text = "Zoë: 3 € für 😀!\n";
  const Tokenizer tokenizer = Tokenizer::characters(text);
  const std::vector<int> ids = tokenizer.encode(text);
  CHECK(ids.size() == 16);  // code points, not bytes
  CHECK(tokenizer.decode(ids) == text);
  CHECK(tokenizer.decode(std::vector<int>{tokenizer.vocab() - 1}) == "😀");  // the largest code point
}

TEST_CASE("the byte tokenizer takes and returns any 256 bytes") {
  std::string text;
  for (int i = 0; i < 256; ++i) text += static_cast<char>(static_cast<unsigned char>(255 - i));
  const Tokenizer tokenizer = Tokenizer::bytes();
  const std::vector<int> ids = tokenizer.encode(text);
  CHECK(tokenizer.vocab() == 256);
  CHECK(ids.front() == 255);
  CHECK(ids.back() == 0);
  CHECK(tokenizer.decode(ids) == text);
  CHECK(Tokenizer() == tokenizer);
}

TEST_CASE("an empty prompt is no tokens and no tokens are an empty text") {
  const Tokenizer tokenizer = Tokenizer::characters("ab");
  CHECK(tokenizer.encode("").empty());
  CHECK(tokenizer.decode({}).empty());
}

TEST_CASE("text that is not UTF-8 is rejected with the offset of the first bad byte") {
  const auto bad = [](std::string_view text) { return refusal([&] { Tokenizer::characters(text); }); };
  CHECK(contains(bad("ab\xff"), "byte 2 (value 255)"));
  CHECK(contains(bad("a\x80"), "byte 1 "));             // a continuation without its lead
  CHECK(contains(bad("a\xc3"), "byte 1 "));             // cut short by the end
  CHECK(contains(bad("a\xe2\x82z"), "byte 1 "));        // cut short by another character
  CHECK(contains(bad("\xc0\x80"), "byte 0 "));          // overlong in two bytes
  CHECK(contains(bad("\xe0\x80\x80"), "byte 0 "));      // overlong in three
  CHECK(contains(bad("\xf0\x80\x80\x80"), "byte 0 "));  // overlong in four
  CHECK(contains(bad("\xed\xa0\x80"), "byte 0 "));      // a surrogate
  CHECK(contains(bad("\xf4\x90\x80\x80"), "byte 0 "));  // above U+10FFFF
  CHECK(contains(bad("\xf5\x80\x80\x80"), "byte 0 "));
  CHECK(bad("\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80").empty());  // the edges of what is allowed
}

TEST_CASE("an unknown character is rejected by name, place and what is known") {
  const Tokenizer tokenizer = Tokenizer::characters("abc \n");
  const std::string euro = refusal([&] { tokenizer.encode("a €"); });
  CHECK(contains(euro, "'€' (U+20AC) at byte 2"));
  CHECK(contains(euro, "5 characters this tokenizer knows: \\n abc"));
  CHECK(contains(refusal([&] { tokenizer.encode("\t"); }), "'\\t' (U+0009) at byte 0"));
  CHECK(contains(refusal([&] { tokenizer.encode("ab\x1b"); }), "'U+001B' (U+001B) at byte 2"));
  CHECK(contains(refusal([&] { tokenizer.encode("ab\xff"); }), "not valid UTF-8 at byte 2"));
}

TEST_CASE("a token id outside the vocabulary is rejected with its place and the range") {
  const Tokenizer tokenizer = Tokenizer::characters("abc");
  const auto decode = [](const Tokenizer& by, std::vector<int> ids) {
    return refusal([&] { by.decode(ids); });
  };
  CHECK(contains(decode(tokenizer, {0, 3}), "token id 3 at position 1 is outside [0, 3)"));
  CHECK(contains(decode(tokenizer, {-1}), "token id -1"));
  CHECK(contains(decode(Tokenizer::bytes(), {256}), "[0, 256)"));
}

TEST_CASE("a character tokenizer cannot be made from an empty text") {
  CHECK(contains(refusal([] { Tokenizer::characters(""); }), "empty"));
}

TEST_CASE("a tokenizer comes back unchanged from its text") {
  CHECK(Tokenizer::bytes().to_text() == "bytes");
  CHECK(Tokenizer::from_text("bytes") == Tokenizer::bytes());
  using namespace std::string_literals;
  for (const std::string& text : {"hello world\n"s, "characters: \"\\"s, "\0€😀"s}) {
    const Tokenizer tokenizer = Tokenizer::characters(text);
    CHECK(Tokenizer::from_text(tokenizer.to_text()) == tokenizer);
    CHECK(tokenizer.to_text() != "bytes");
  }
  CHECK(Tokenizer::characters("ba").to_text() == "characters:ab");
}

TEST_CASE("an invalid text of a tokenizer is rejected") {
  const auto read = [](std::string_view text) { return refusal([&] { Tokenizer::from_text(text); }); };
  CHECK(contains(read(""), "found ''"));
  CHECK(contains(read("byte"), "found 'byte'"));
  CHECK(contains(read("characters:"), "found 'characters:'"));
  CHECK(contains(read("characters:ba"), "must ascend"));
  CHECK(contains(read("characters:aab"), "character 1 (byte 12"));
  CHECK(contains(read("characters:a\xff"), "not valid UTF-8"));
}

TEST_CASE("knows() is true for exactly the texts that encode accepts") {
  const Tokenizer letters = Tokenizer::characters("ab\u00e9\U0001F600");
  for (const char* text : {"", "a", "ba\u00e9\U0001F600"}) CHECK(letters.knows(text));
  for (const char* text : {"\n", "abc", "\xe9", "a\xf0\x9f"}) {
    CHECK_FALSE(letters.knows(text));
    CHECK(refusal([&] { letters.encode(text); }) != "");
  }
  CHECK(Tokenizer::bytes().knows("\xff\n"));
}

TEST_CASE("every character but the surrogates is UTF-8, and nothing in its place") {
  int wrong = 0;
  for (char32_t c = 0; c <= 0x10ffff; ++c) {
    std::string text;
    utf8::append(text, c);
    const bool surrogate = c >= 0xd800 && c <= 0xdfff;
    const utf8::Character read = utf8::read(text, 0);
    wrong += read.bytes != (surrogate ? 0 : text.size()) || (!surrogate && read.value != c);
    for (std::size_t bytes = 1; bytes < text.size(); ++bytes)
      wrong += utf8::first_invalid(text.substr(0, bytes)) != 0;
  }
  CHECK(wrong == 0);
}

TEST_CASE("the first byte that is not UTF-8 is found, and none in a text that is") {
  CHECK(utf8::first_invalid("") == std::string_view::npos);
  CHECK(utf8::first_invalid("caf\u00e9 \U0001F600\n") == std::string_view::npos);
  CHECK(utf8::first_invalid("caf\xe9") == 3);
  CHECK(utf8::first_invalid("ab\xf0\x9f\x98") == 2);  // cut short
  CHECK(utf8::first_invalid("\xed\xa0\x80") == 0);    // a surrogate
}
