#include <moegpt/data/permutation.hpp>

#include "../support/catch.hpp"

#include <cmath>
#include <map>
#include <set>

using namespace moegpt;

namespace {

std::vector<std::uint64_t> all(const Permutation& order) {
  std::vector<std::uint64_t> numbers;
  for (std::uint64_t i = 0; i < order.size; ++i) numbers.push_back(order(i));
  return numbers;
}

}  // namespace

TEST_CASE("a permutation of any size has every number once") {
  for (const std::uint64_t size : {1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 1000, 4096, 4097, 65537}) {
    const auto numbers = all({size, Key{7}});
    const std::set<std::uint64_t> different(numbers.begin(), numbers.end());
    CAPTURE(size);
    CHECK(different.size() == size);
    CHECK(*different.rbegin() == size - 1);
  }
}

TEST_CASE("a permutation is a function of its key that agrees on every platform") {
  CHECK(all({10, Key{1}}) == all({10, Key{1}}));
  CHECK(all({1000, Key{1}}) != all({1000, Key{2}}));
  const std::vector<std::uint64_t> expected{5, 3, 7, 8, 2, 4, 9, 0, 1, 6};
  CHECK(all({10, Key{1}}) == expected);
  CHECK(Permutation{std::uint64_t{1} << 62, Key{1}}(12345) == 3123256089868096749u);
}

TEST_CASE("all permutations of four numbers are about equally frequent") {
  std::map<std::vector<std::uint64_t>, int> count;
  for (std::uint64_t seed = 0; seed < 24000; ++seed) ++count[all({4, Key{mix64(seed)}})];
  CHECK(count.size() == 24);
  for (const auto& entry : count) CHECK(std::abs(entry.second - 1000) < 155);  // five standard deviations
}

TEST_CASE("each number is about equally often at each place") {
  constexpr int n = 11, trials = 20000;
  int count[n][n] = {};
  for (int t = 0; t < trials; ++t) {
    const auto numbers = all({n, Key{}.with(Purpose::check, t)});
    for (std::size_t i = 0; i < n; ++i) ++count[i][numbers[i]];
  }
  // 1818 expected, standard deviation 41; five of them
  for (const auto& row : count)
    for (const int c : row) CHECK(std::abs(c - trials / n) < 205);
}

TEST_CASE("neighbours are seldom neighbours again") {
  const auto numbers = all({1000, Key{3}});
  int neighbours = 0;  // 2 expected
  for (std::size_t i = 1; i < 1000; ++i)
    neighbours += numbers[i] == numbers[i - 1] + 1 || numbers[i] + 1 == numbers[i - 1];
  CHECK(neighbours < 12);
}

TEST_CASE("a number outside a permutation is rejected") {
  CHECK_THROWS_WITH((Permutation{5, Key{1}}(5)), "moegpt: a permutation of 5 numbers has no number 5");
  CHECK_THROWS_AS((Permutation{0, Key{1}}(0)), std::invalid_argument);
}
