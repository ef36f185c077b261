#include <moegpt/data/token_sequence.hpp>

#include "support.hpp"

#include <numeric>

using namespace moegpt;

namespace {

// 0 .. 29 in three pieces of three types.
TokenSequence thirty() {
  std::vector<std::uint8_t> bytes(7);
  std::vector<std::uint16_t> words(13);
  std::vector<std::uint32_t> longs(10);
  std::iota(bytes.begin(), bytes.end(), std::uint8_t{0});
  std::iota(words.begin(), words.end(), std::uint16_t{7});
  std::iota(longs.begin(), longs.end(), 20u);
  TokenSequence all{std::move(bytes)};
  all.append(TokenSequence(std::move(words)));
  all.append(TokenSequence());
  all.append(TokenSequence(std::move(longs)));
  return all;
}

}  // namespace

TEST_CASE("a type is the smallest that holds every id of a vocabulary") {
  CHECK(smallest_type(1) == TokenType::u8);
  CHECK(smallest_type(256) == TokenType::u8);
  CHECK(smallest_type(257) == TokenType::u16);
  CHECK(smallest_type(65536) == TokenType::u16);
  CHECK(smallest_type(65537) == TokenType::u32);
}

TEST_CASE("pieces of different types are one sequence, and every run of it can be read") {
  const TokenSequence all = thirty();
  REQUIRE(all.size() == 30);
  for (Index first = 0; first <= 30; ++first)
    for (Index count = 0; count <= 30 - first; ++count) {
      std::vector<int> run(static_cast<std::size_t>(count)), expected = run;
      std::iota(expected.begin(), expected.end(), static_cast<int>(first));
      all.copy(first, count, run.data());
      REQUIRE(run == expected);
      REQUIRE(ids_of(all.part(first, count)) == expected);
    }
}

TEST_CASE("a part keeps the memory of its tokens") {
  TokenSequence part;
  {
    const TokenSequence all = thirty();
    part = all.part(5, 20).part(1, 3);
  }
  CHECK(ids_of(part) == std::vector<int>{6, 7, 8});
}

TEST_CASE("a part may be taken of an appended part") {
  TokenSequence twice = thirty().part(28, 2);
  twice.append(thirty().part(6, 2));
  CHECK(ids_of(twice) == std::vector<int>{28, 29, 6, 7});
  CHECK(ids_of(twice.part(1, 2)) == std::vector<int>{29, 6});
}

TEST_CASE("a split has the first tokens for training and the others for validation") {
  const auto [train, val] = split_tokens(thirty(), 0.5);
  CHECK(train.size() == 15);
  CHECK(ids_of(val).front() == 15);
  CHECK(split_tokens(thirty(), 1).val.size() == 0);
  CHECK_THROWS_WITH(split_tokens({}), "moegpt: a corpus needs tokens; found none");
  for (const double fraction : {0.0, -0.1, 1.1, std::nan("")})
    CHECK_THROWS_WITH(split_tokens(thirty(), fraction), Catch::Contains("(0, 1]"));
}

TEST_CASE("a hash depends on every id and its index, not on pieces and types") {
  std::vector<int> ids(30);
  std::iota(ids.begin(), ids.end(), 0);
  const std::uint64_t hash = hash_of(ids);
  CHECK(hash == 715654907208514420u);  // by the formula, in Python
  CHECK(hash_of(thirty()) == hash);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    auto changed = ids;
    ++changed[i];
    CHECK(hash_of(changed) != hash);
    changed = ids;
    if (i > 0) {
      std::swap(changed[i], changed[i - 1]);
      CHECK(hash_of(changed) != hash);
    }
  }
  ids.push_back(0);
  CHECK(hash_of(ids) != hash);
  CHECK(hash_of(std::vector<int>{}) != hash_of(std::vector<int>{0}));
}

TEST_CASE("a hash of many tokens is that of one piece") {
  std::vector<std::uint16_t> ids(100000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::uint16_t>(i * 40503);
  const TokenSequence whole{std::vector(ids)};
  TokenSequence cut{std::vector(ids.begin(), ids.begin() + 33333)};
  cut.append(TokenSequence{std::vector(ids.begin() + 33333, ids.end())});
  CHECK(hash_of(whole) == hash_of(cut));
}
