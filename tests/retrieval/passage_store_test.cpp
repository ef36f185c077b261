// Stores of passages: exact search against brute force, ties, exclusion, threads and batches, and what they
// reject.
#include <moegpt/core/random.hpp>
#include <moegpt/retrieval/passage_store.hpp>

#include <algorithm>
#include <cmath>

#include "../support/catch.hpp"
#include "../support/numbers.hpp"
#include "../support/refusal.hpp"

using namespace moegpt;

namespace {

PassageStore store_of(const std::vector<float>& vectors, Index dim) {
  PassageStore store(dim);
  for (Index i = 0; i < std::ssize(vectors) / dim; ++i) {
    const int id = static_cast<int>(i);
    store.add({&id, 1}, {vectors.data() + i * dim, static_cast<std::size_t>(dim)}, id % 3);
  }
  return store;
}

std::vector<float> normals(Index count, std::uint64_t seed) {
  const auto drawn = random_numbers<float>(count, seed);
  return {drawn.begin(), drawn.end()};
}

// By definition: all passages sorted by score, then by index.
std::vector<Index> sorted(const PassageStore& store, const float* query, auto&& excluded) {
  std::vector<std::pair<double, Index>> all;
  for (Index i = 0; i < store.size(); ++i) {
    double score = 0;
    for (Index d = 0; d < store.dim(); ++d)
      score -= double(query[d]) * double(store.vector(i)[static_cast<std::size_t>(d)]);
    if (!excluded(i)) all.emplace_back(score, i);
  }
  std::sort(all.begin(), all.end());
  std::vector<Index> order;
  for (const auto& [score, i] : all) order.push_back(i);
  return order;
}

}  // namespace

TEST_CASE("the nearest passages are those of brute force, with ties in order of index") {
  constexpr Index dim = 24, passages = 700, queries = 67;
  auto vectors = normals(passages * dim, 1);
  // small integers, so that sums are exact in any order and ties are frequent
  for (float& x : vectors) x = std::round(x);
  auto asked = normals(queries * dim, 2);
  for (float& x : asked) x = std::round(x);
  const PassageStore store = store_of(vectors, dim);
  for (const int k : {1, 5, 40}) {
    Neighbours found, on_two;
    const auto excluded = [&](Index q, Index i) { return k == 5 && store.source(i) == q % 3; };
    store.nearest(asked, k, found, {}, excluded);
    store.nearest(asked, k, on_two, {.threads = 2}, excluded);
    CHECK((found.index == on_two.index && found.score == on_two.score));
    for (Index q = 0; q < queries; ++q) {
      const auto expected = sorted(store, asked.data() + q * dim, [&](Index i) { return excluded(q, i); });
      CAPTURE(k, q);
      CHECK(std::equal(expected.begin(), expected.begin() + k, found.index.begin() + q * k));
    }
  }
}

TEST_CASE("a query finds the same passages and scores alone as in a batch") {
  constexpr Index dim = 33, queries = 70;
  const auto asked = normals(queries * dim, 4);
  const PassageStore store = store_of(normals(300 * dim, 3), dim);
  Neighbours all, one;
  store.nearest(asked, 4, all, {.threads = 2});
  for (Index q = 0; q < queries; ++q) {
    store.nearest(std::span(asked).subspan(static_cast<std::size_t>(q * dim), dim), 4, one);
    CHECK(std::equal(one.index.begin(), one.index.end(), all.index.begin() + q * 4));
    CHECK(same_bits(one.score.data(), all.score.data() + q * 4, 4));
  }
}

TEST_CASE("where fewer passages are available than were asked for, there is none") {
  const PassageStore store = store_of({1, 0, 0, 1, 1, 1}, 2);
  const std::vector<float> query{1, 0};
  Neighbours found;
  store.nearest(query, 5, found);
  CHECK(found.index == std::vector<Index>{0, 2, 1, Neighbours::none, Neighbours::none});
  store.nearest(query, 2, found, {}, [](Index, Index i) { return i != 1; });
  CHECK(found.index == std::vector<Index>{1, Neighbours::none});
  PassageStore(2).nearest(query, 1, found);
  CHECK(found.index == std::vector<Index>{Neighbours::none});
}

TEST_CASE("a store rejects passages and queries that it cannot compare") {
  PassageStore store(2);
  const std::vector<int> ids{1, -2}, good{3};
  const std::vector<float> vector{1, 2}, longer{1, 2, 3}, nan{1, std::nanf("")}, huge{3e19f, 3e19f};
  Neighbours found;
  CHECK_THROWS_AS(PassageStore(0), std::invalid_argument);
  CHECK_THROWS_AS(store.add({}, vector), std::invalid_argument);
  CHECK_THROWS_AS(store.add(ids, vector), std::invalid_argument);
  CHECK_THROWS_AS(store.add(good, longer), std::invalid_argument);
  CHECK_THROWS_AS(store.add(good, nan), std::invalid_argument);
  CHECK_THROWS_AS(store.add(good, huge), std::invalid_argument);
  CHECK(store.size() == 0);
  CHECK(store.add(good, vector, 7) == 0);
  CHECK((store.source(0) == 7 && store.text(0).size() == 1 && store.text(0)[0] == 3));
  CHECK_THROWS_AS(store.text(1), std::invalid_argument);
  CHECK_THROWS_AS(store.nearest(vector, 0, found), std::invalid_argument);
  CHECK_THROWS_AS(store.nearest(longer, 1, found), std::invalid_argument);
  CHECK_THROWS_AS(store.nearest(nan, 1, found), std::invalid_argument);
}
