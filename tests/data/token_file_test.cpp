#include <moegpt/data/token_file.hpp>

#include "support.hpp"

#include <numeric>

using namespace moegpt;

namespace {

std::string bytes_of_numbers(const auto& numbers) {
  return {static_cast<const char*>(static_cast<const void*>(numbers.data())),
          numbers.size() * sizeof numbers[0]};
}
// A file as llm.c writes it.
template <class U>
std::string llmc(const std::vector<U>& ids, std::int32_t magic = 20240520, std::int32_t version = 1,
                 std::int32_t count = -1) {
  std::vector<std::int32_t> header(256);
  header[0] = magic, header[1] = version;
  header[2] = count < 0 ? static_cast<std::int32_t>(ids.size()) : count;
  return bytes_of_numbers(header) + bytes_of_numbers(ids);
}

const std::vector<std::uint16_t> shorts{5, 50256, 0, 7};
const std::vector<std::uint32_t> longs{5, 128255, 0, 7};

struct File : TemporaryFolder {
  std::filesystem::path file = *this / "tokens.bin";
  TokenSequence read(const std::string& bytes, TokenFileOptions options) const {
    write_bytes(file, bytes);
    return read_tokens(file, options);
  }
  std::string refuses(const std::string& bytes, TokenFileOptions options) const {
    return refusal<std::runtime_error>([&] { read(bytes, options); });
  }
};

}  // namespace

TEST_CASE("files of llm.c and files of ids alone are read, mapped or not") {
  const File file;
  for (const bool mapped : {true, false}) {
    CHECK(ids_of(file.read(llmc(shorts), {50257, {}, mapped})) == std::vector<int>{5, 50256, 0, 7});
    CHECK(ids_of(file.read(llmc(longs, 20240801, 7), {128256, {}, mapped})) ==
          std::vector<int>{5, 128255, 0, 7});
    CHECK(ids_of(file.read(bytes_of_numbers(shorts), {50257, TokenType::u16, mapped})) ==
          std::vector<int>{5, 50256, 0, 7});
    CHECK(ids_of(file.read(bytes_of_numbers(longs), {128256, TokenType::u32, mapped})) ==
          std::vector<int>{5, 128255, 0, 7});
    CHECK(ids_of(file.read("abc", {256, TokenType::u8, mapped})) == std::vector<int>{97, 98, 99});
    CHECK(ids_of(file.read(llmc(shorts), {50257, TokenType::u32, mapped})).size() == 4);  // the header counts
    CHECK(file.read(llmc(std::vector<std::uint16_t>{}), {5, {}, mapped}).size() == 0);
  }
}

TEST_CASE("tokens of a mapped file outlive its name and the other parts") {
  TokenSequence part;
  {
    const File file;
    part = file.read(llmc(shorts), {50257}).part(1, 2);
  }
  CHECK(ids_of(part) == std::vector<int>{50256, 0});
}

TEST_CASE("several files are one sequence in the order of the files") {
  const File file;
  write_bytes(file / "b.bin", llmc(longs, 20240801, 7));
  write_bytes(file / "a.bin", llmc(shorts));
  const std::vector<std::filesystem::path> files{file / "b.bin", file / "a.bin"};
  CHECK(ids_of(read_tokens(files, {128256})) == std::vector<int>{5, 128255, 0, 7, 5, 50256, 0, 7});
}

TEST_CASE("an id that is not in the vocabulary is refused with file, index and id") {
  const File file;
  for (const std::size_t at : {0, 1, 4095, 4096, 9999}) {
    std::vector<std::uint16_t> ids(10000, 99);
    CHECK(file.read(llmc(ids), {100}).size() == 10000);
    ids[at] = 100;
    const std::string message = file.refuses(llmc(ids), {100});
    CHECK(contains(message, "tokens.bin: token " + std::to_string(at) + " has id 100, expected 0 .. 99"));
  }
  CHECK(contains(file.refuses(llmc(longs, 20240801, 7), {128255}), "token 1 has id 128255"));
  CHECK(contains(file.refuses("ab", {98, TokenType::u8}), "token 1 has id 98"));
  CHECK(file.read(bytes_of_numbers(std::vector<std::uint16_t>{65535}), {65536, TokenType::u16}).size() == 1);
}

TEST_CASE("a file with another header, size or version is refused with what was found") {
  const File file;
  const std::string good = llmc(shorts);
  CHECK(contains(file.refuses(good.substr(0, 100), {50257}), "has 100 bytes, expected a header of 1024"));
  CHECK(
      contains(file.refuses(good.substr(0, good.size() - 1), {50257}), "has 7 bytes of ids, but its header"));
  CHECK(contains(file.refuses(good + "x", {50257}), "has 9 bytes of ids"));
  CHECK(contains(file.refuses(llmc(shorts, 20240520, 2), {50257}), "has version 2, expected 1"));
  CHECK(
      contains(file.refuses(llmc(shorts, 20240520, 1, 1 << 30), {50257}), "says 1073741824 ids of 2 bytes"));
  CHECK(contains(file.refuses(llmc(longs, 20240801, 7, 2), {1 << 20}), "has 16 bytes of ids"));
  CHECK(contains(file.refuses(llmc(shorts, 1), {50257}), "does not begin with a magic number"));
  CHECK(contains(file.refuses("abc", {50257}), "state their type"));
  CHECK(contains(file.refuses("abc", {50257, TokenType::u16}), "has 3 bytes, expected ids of 2 bytes"));
  CHECK(contains(file.refuses("", {50257, TokenType::u16}), "is empty"));
  CHECK(contains(file.refuses("", {50257, TokenType::u16, false}), "is empty"));
  // a negative number of ids
  std::string negative = good;
  negative.replace(8, 4, "\xff\xff\xff\xff");
  CHECK(contains(file.refuses(negative, {50257}), "says -1 ids"));
}

TEST_CASE("a missing file, a directory and a vocabulary of no ids are refused") {
  const File file;
  CHECK(contains(refusal<std::runtime_error>([&] { read_tokens(file.file, {5}); }),
                 "tokens.bin: No such file"));
  CHECK(contains(refusal<std::runtime_error>([&] { read_tokens(file.path, {5}); }), "is not a regular file"));
  CHECK_THROWS_WITH(read_tokens(file.file, {0}), Catch::Contains("the vocabulary has 0 ids"));
}

TEST_CASE("written files are llm.c's byte for byte, or ids alone, and are read again") {
  const File file;
  const std::vector<int> ids{5, 50256, 0, 7};
  write_tokens(file.file, ids, TokenType::u16);
  CHECK(read_bytes(file.file) == llmc(shorts));
  write_tokens(file.file, ids, TokenType::u32);
  CHECK(read_bytes(file.file) == llmc(std::vector<std::uint32_t>{5, 50256, 0, 7}, 20240801, 7));
  write_tokens(file.file, ids, TokenType::u16, TokenHeader::none);
  CHECK(read_bytes(file.file) == bytes_of_numbers(shorts));
  std::vector<int> many(100000);
  std::iota(many.begin(), many.end(), 0);
  write_tokens(file.file, many, TokenType::u32);
  CHECK(ids_of(read_tokens(file.file, {100000})) == many);
}

TEST_CASE("ids that a file cannot hold are refused and the old file remains") {
  const File file;
  write_tokens(file.file, std::vector<int>{1}, TokenType::u16);
  const std::string before = read_bytes(file.file);
  const auto write = [&](std::vector<int> ids, TokenType type, TokenHeader header = TokenHeader::none) {
    return refusal<std::invalid_argument>([&] { write_tokens(file.file, ids, type, header); });
  };
  CHECK(contains(write({1, 65536}, TokenType::u16), "token 1 has id 65536, which 2 bytes cannot hold"));
  CHECK(contains(write({256}, TokenType::u8), "which 1 bytes cannot hold"));
  CHECK(contains(write({-1}, TokenType::u32), "token 0 has id -1"));
  CHECK(contains(write({1}, TokenType::u8, TokenHeader::llmc), "no type of ids of one byte"));
  CHECK(read_bytes(file.file) == before);
  CHECK(file.files() == 1);
}
