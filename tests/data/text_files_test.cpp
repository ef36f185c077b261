#include <moegpt/data/text_files.hpp>

#include "support.hpp"

using namespace moegpt;
using namespace std::string_literals;

namespace {

struct Text : TemporaryFolder {
  TextFiles text;
  explicit Text(std::vector<std::string> contents, TextRules rules = {}) : text{{}, rules} {
    for (std::size_t i = 0; i < contents.size(); ++i) {
      text.files.push_back(*this / ("file" + std::to_string(i)));
      write_bytes(text.files.back(), contents[i]);
    }
  }
  std::string all(std::size_t chunk = 1 << 20) {
    text.chunk = chunk;
    std::string bytes;
    text.read([&](const TextPiece& piece) { bytes += piece.text; });
    return bytes;
  }
};

std::string cleaned(const std::string& bytes, TextRules rules = {}) { return Text({bytes}, rules).all(); }
std::string refuses(const std::string& bytes, TextRules rules) {
  return refusal<std::runtime_error>([&] { cleaned(bytes, rules); });
}

const std::string bom = "\xef\xbb\xbf", cafe = "caf\u00e9";

}  // namespace

TEST_CASE("each rule keeps, removes or refuses its bytes") {
  const std::string marked = bom + "a" + bom, lines = "a\r\nb\rc\r\r\nd\r", nul = "abcd\0e\0"s,
                    invalid = "a\xff" + cafe + "\xc3(\xe4\xb8";
  CHECK(cleaned(marked) == "a" + bom);  // elsewhere U+FEFF is a character
  CHECK(cleaned(marked, {.byte_order_mark = Bytes::keep}) == marked);
  CHECK(contains(refuses(marked, {.byte_order_mark = Bytes::refuse}), "byte 0 is a byte-order mark"));

  CHECK(cleaned(lines) == "a\nb\rc\r\nd\r");
  CHECK(cleaned(lines, {.carriage_return = Bytes::keep}) == lines);
  CHECK(contains(refuses(lines, {.carriage_return = Bytes::refuse}), "byte 1 is CR LF"));

  CHECK(contains(refuses(nul, {}), "file0: byte 4 is a NUL: convert the file, or choose to keep or remove"));
  CHECK(cleaned(nul, {.nul = Bytes::keep}) == nul);
  CHECK(cleaned(nul, {.nul = Bytes::remove}) == "abcde");

  CHECK(cleaned(invalid) == invalid);
  CHECK(cleaned(invalid, {.invalid = Bytes::remove}) == "a" + cafe + "(");
  CHECK(contains(refuses(invalid, {.invalid = Bytes::refuse}), "byte 1 is not UTF-8"));
}

TEST_CASE("UTF-16 is refused and named") {
  CHECK(contains(refuses("\xff\xfeh\0i\0"s, {}), "byte 3 is a NUL: the file may be UTF-16"));
  CHECK(contains(refuses("h\0i\0"s, {}), "may be UTF-16"));
  CHECK(
      contains(refuses("\xfe\xff\0h"s, {.invalid = Bytes::refuse}), "byte 0 is not UTF-8: the file may be"));
}

TEST_CASE("a text does not depend on the size of the chunks that it is read in") {
  const std::string bytes = bom + "a\r\nb\r" + cafe + bom + "\r\n\U0001F600\xf0\x9f\x98\xe4\xb8\xad\r";
  for (const Bytes rule : {Bytes::keep, Bytes::remove}) {
    const TextRules rules{rule, rule, rule, rule};
    Text text({bytes, "", bytes + "\xc3"}, rules);
    const std::string whole = text.all();
    CHECK((whole == bytes + bytes + "\xc3") == (rule == Bytes::keep));
    CHECK(contains(whole, cafe + bom));
    for (std::size_t chunk = 1; chunk < 12; ++chunk) CHECK(text.all(chunk) == whole);
  }
}

TEST_CASE("a piece has whole characters and the place where it begins in its file") {
  Text text({"\u4e2d\r\n\U0001F600" + cafe, "x"});
  for (std::size_t chunk = 1; chunk < 9; ++chunk) {
    text.text.chunk = chunk;
    text.text.read([&](const TextPiece& piece) {
      CHECK(utf8::first_invalid(piece.text) == std::string_view::npos);
      CHECK(read_bytes(piece.file).compare(static_cast<std::size_t>(piece.byte), 1, piece.text, 0, 1) ==
            (piece.text[0] == '\n' ? '\r' - '\n' : 0));
    });
  }
}

TEST_CASE("files are joined as they are, or with a separator between two of them") {
  Text text({"one", "two", "three"});
  CHECK(text.all() == "onetwothree");
  text.text.separator = "\n--\n";
  CHECK(text.all() == "one\n--\ntwo\n--\nthree");
}

TEST_CASE("a file that is missing or a directory is refused by name") {
  Text text({"one"});
  text.text.files.push_back(text / "missing");
  CHECK(contains(refusal<std::runtime_error>([&] { text.all(); }), "missing: No such file"));
  text.text.files.back() = text.path;
  CHECK(contains(refusal<std::runtime_error>([&] { text.all(); }), "is not a regular file"));
}

TEST_CASE("a survey counts bytes and characters and finds the alphabet") {
  Text text({bom + "ba\r\n" + cafe, "\u4e2d"});
  text.text.chunk = 3;
  const TextSurvey found = survey(text.text);
  CHECK(found.bytes == 11);
  CHECK(found.characters == 8);
  CHECK(found.alphabet == "\nabcf\u00e9\u4e2d");
  CHECK(found.invalid.empty());
  CHECK(Tokenizer::characters(found.alphabet) == Tokenizer::characters("ba\n" + cafe + "\u4e2d"));
}

TEST_CASE("a survey says where a text is not UTF-8") {
  Text text({"a\r\nb", "c\r\nd\xff\xfe"});
  for (const std::size_t chunk : {1, 4, 100}) {
    text.text.chunk = chunk;
    const TextSurvey found = survey(text.text);
    CHECK(found.invalid == text.text.files[1].string() + ", byte 4");
    CHECK(found.characters == 0);
    CHECK(found.alphabet.empty());
    CHECK(found.bytes == 8);
  }
  text.text.rules.invalid = Bytes::remove;
  CHECK(survey(text.text).characters == 6);
}
