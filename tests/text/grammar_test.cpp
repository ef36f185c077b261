#include <moegpt/text/grammar.hpp>

#include "../support/catch.hpp"

#include <numeric>

using namespace moegpt;

namespace {

Dialect make(std::uint64_t seed, DialectOptions options = {}) {
  std::set<std::string> taken;
  return grammar::make_dialect(options, taken, Rng(seed));
}

double sum(const std::vector<double>& p) { return std::accumulate(p.begin(), p.end(), 0.0); }

}  // namespace

TEST_CASE("a choice follows its probabilities and never has probability zero") {
  const std::vector<double> p{0, 0.2, 0, 0.5, 0.3, 0};
  std::vector<int> count(p.size());
  Rng rng(3);
  const int draws = 10000;
  for (int i = 0; i < draws; ++i) ++count.at(grammar::draw(p, rng));
  for (std::size_t i = 0; i < p.size(); ++i) {
    // five standard deviations of a binomial; exactly none where p = 0
    CHECK(std::abs(count[i] - draws * p[i]) <= 5 * std::sqrt(draws * p[i] * (1 - p[i])));
  }
}

TEST_CASE("the entropy of a fair choice among n is ln n, and of a certain one zero") {
  CHECK(grammar::entropy({0.25, 0.25, 0.25, 0.25}) == Approx(std::log(4.0)).epsilon(1e-15));
  CHECK(grammar::entropy({0, 1, 0}) == 0);
}

TEST_CASE("all probabilities of a grammar sum to one") {
  for (const std::uint64_t seed : {1, 2, 3}) {
    const Dialect d = make(seed);
    CHECK(sum(d.start) == Approx(1).epsilon(1e-14));
    CHECK(sum(d.mark) == Approx(1).epsilon(1e-14));
    for (const auto& row : d.next) CHECK(sum(row) == Approx(1).epsilon(1e-14));
    for (const auto& of : d.classes) CHECK(sum(of.probability) == Approx(1).epsilon(1e-14));
    CHECK(d.comma > 0);
    CHECK(d.comma < 1);
  }
}

TEST_CASE("no class follows itself and no sentence ends where one can begin") {
  const Dialect d = make(4);
  for (std::size_t c = 0; c < d.classes.size(); ++c) {
    CHECK(d.next[c][c] == 0);
    CHECK((d.start[c] == 0 || d.next[c].back() == 0));
  }
}

TEST_CASE("each class has half the words of the next, and its frequent words are not longer than its rare") {
  const Dialect d = make(5, {.classes = 4, .words = 40, .zipf = 1.5});
  const std::size_t sizes[] = {5, 10, 20, 40};
  for (std::size_t c = 0; c < 4; ++c) {
    const auto& [words, probability] = d.classes[c];
    REQUIRE(words.size() == sizes[c]);
    REQUIRE(probability.size() == sizes[c]);
    CHECK(probability[0] / probability[3] == Approx(8));  // 4^1.5
    for (std::size_t w = 1; w < words.size(); ++w) CHECK(words[w - 1].size() <= words[w].size());
  }
}

TEST_CASE("the mean visits of the classes solve their equation") {
  const Dialect d = make(6, {.classes = 7});
  const std::vector<double> v = grammar::mean_visits(d);
  double ends = 0;
  for (std::size_t c = 0; c < v.size(); ++c) {
    double expected = d.start[c];
    for (std::size_t before = 0; before < v.size(); ++before) expected += v[before] * d.next[before][c];
    CHECK(v[c] == Approx(expected).epsilon(1e-13));
    ends += v[c] * d.next[c].back();
  }
  CHECK(ends == Approx(1).epsilon(1e-13));  // a sentence ends once
}

TEST_CASE("a grammar of two fair coins has the entropy of two bits") {
  // One word "a" or "b" evenly, then "cd", then with probability 1/2 the end, else from the start again.
  Dialect d;
  d.classes = {{{"a", "b"}, {0.5, 0.5}}, {{"cd"}, {1}}};
  d.start = {1, 0};
  d.next = {{0, 1, 0}, {0.5, 0, 0.5}};
  d.comma = 0;
  d.mark = {1, 0, 0};
  // 2 rounds on average, each of two coins: 4 ln 2. Letters 2 * 3, spaces 3, "." and newline 2.
  const grammar::Measure m = grammar::measure_sentence(d);
  CHECK(m.nats == Approx(4 * std::log(2.0)).epsilon(1e-14));
  CHECK(m.characters == Approx(11).epsilon(1e-14));
}
