#include <moegpt/data/encode.hpp>

#include <moegpt/text/train_byte_pairs.hpp>

#include "support.hpp"

#include <sys/resource.h>

using namespace moegpt;

namespace {

const std::string one = "the caf\u00e9 \u4e2d\n", two = "a second file\r\n";

struct Text : TemporaryFolder {
  TextFiles text{{*this / "1.txt", *this / "2.txt"}};
  Text() {
    write_bytes(text.files[0], one);
    write_bytes(text.files[1], two);
  }
};

}  // namespace

TEST_CASE("a text that is encoded piece by piece has the tokens of the whole text") {
  Text text;
  const std::string whole = one + "a second file\n";
  for (const std::size_t chunk : {1, 5, 1000})
    for (const Tokenizer& tokenizer : {Tokenizer::bytes(), Tokenizer::characters(whole)}) {
      text.text.chunk = chunk;
      CHECK(ids_of(encode(text.text, tokenizer)) == tokenizer.encode(whole));
    }
}

TEST_CASE(
    "byte pairs that are encoded in pieces have the tokens of the whole text, for any number of threads") {
  TemporaryFolder folder;
  std::string whole;
  for (int i = 0; i < 200; ++i) whole += i % 7 ? "they'll say the caf\u00e9's 12345 " : " \n\n\t it's\n so  ";
  const TextFiles text{{folder / "1.txt"}};
  write_bytes(text.files[0], whole);
  for (const Split split : {Split::gpt2, Split::llama3, Split::qwen2}) {
    BytePairTrainer trainer({.vocab = 300, .split = split});
    trainer.add(whole);
    const Tokenizer tokenizer = Tokenizer::byte_pairs(trainer.train());
    const std::vector<int> expected = tokenizer.encode(whole);
    for (const std::size_t chunk : {1, 7, 100, 100000})
      for (const int threads : {1, 3}) {
        TextFiles pieces = text;
        pieces.chunk = chunk;
        CHECK(ids_of(encode(pieces, tokenizer, Exec{threads})) == expected);
      }
  }
}

TEST_CASE("a separator that is a special token is its id between the files") {
  Text text;
  BytePairTrainer trainer({.vocab = 260, .special = {"<|end|>"}});
  trainer.add(one);
  const Tokenizer tokenizer = Tokenizer::byte_pairs(trainer.train());
  text.text.separator = "<|end|>";
  std::vector<int> expected = tokenizer.encode(one);
  expected.push_back(tokenizer.byte_pairs()->special("<|end|>"));
  for (const int id : tokenizer.encode("a second file\n")) expected.push_back(id);
  CHECK(ids_of(encode(text.text, tokenizer)) == expected);
  text.text.separator = "<|other|>";  // a text like any other
  CHECK(tokenizer.decode(ids_of(encode(text.text, tokenizer))) == one + "<|other|>a second file\n");
}

TEST_CASE("tokens in memory have the hash of the files written from them") {
  Text text;
  const Tokenizer tokenizer = Tokenizer::characters(survey(text.text).alphabet);
  const TokenSequence tokens = encode(text.text, tokenizer);
  const auto files = encode_to_files(text.text, tokenizer, text / "tokens", 7);
  REQUIRE(files.size() == 4);  // 25 characters
  CHECK(files[3] == text / "tokens_000003.bin");
  CHECK(read_tokens(files[0], {tokenizer.vocab()}).size() == 7);
  const TokenSequence again = read_tokens(files, {tokenizer.vocab()});
  CHECK(ids_of(again) == ids_of(tokens));
  CHECK(hash_of(again) == hash_of(tokens));
}

TEST_CASE("a character that the tokenizer does not know is refused with its file") {
  Text text;
  const auto message = refusal<std::runtime_error>(
      [&] { encode(text.text, Tokenizer::characters("the caf\u00e9 \u4e2d\n")); });
  CHECK(contains(message, "2.txt: in the piece from byte 0 on: the character 's'"));
  write_bytes(text.text.files[0], "th\xff");
  CHECK(contains(refusal<std::runtime_error>([&] { encode(text.text, Tokenizer::characters("th")); }),
                 "1.txt: in the piece"));
}

TEST_CASE("a text without a token is refused, an empty file among others is not") {
  Text text;
  write_bytes(text.text.files[0], "");
  CHECK(encode(text.text, Tokenizer::bytes()).size() == 14);
  write_bytes(text.text.files[1], "");
  CHECK(contains(refusal<std::runtime_error>([&] { encode(text.text, Tokenizer::bytes()); }),
                 "1.txt: the text is empty"));
  CHECK(contains(
      refusal<std::runtime_error>([&] { encode_to_files(text.text, Tokenizer::bytes(), text / "t"); }),
      "empty"));
  CHECK(contains(refusal<std::runtime_error>([&] { encode({}, Tokenizer::bytes()); }), "the text is empty"));
  CHECK_THROWS_AS(encode_to_files(text.text, Tokenizer::bytes(), text / "t", 0), std::invalid_argument);
}

TEST_CASE("the tokens of a text take little more memory than the smallest integers for them") {
  const auto peak = [] {
    rusage usage{};
    REQUIRE(::getrusage(RUSAGE_SELF, &usage) == 0);
    return usage.ru_maxrss;  // KiB
  };
  Text text;
  {
    std::ofstream out(text.text.files[0], std::ios::binary);
    for (int i = 0; i < 1 << 15; ++i) out << std::string(1 << 10, static_cast<char>('a' + i % 26));
  }
  const auto before = peak();
  const TextSurvey found = survey(text.text);
  const TokenSequence tokens = encode(text.text, Tokenizer::characters(found.alphabet));
  CHECK(tokens.size() == found.characters);
  CHECK(tokens.size() > 32 << 20);
  CHECK(peak() - before < (32 + 16) << 10);  // 32 MiB of tokens, and buffers
}
