#include <moegpt/text/dialects.hpp>

#include "../support/catch.hpp"

#include <map>

using namespace moegpt;

namespace {

// Where a word stands in the grammars.
struct Place {
  std::size_t dialect, word_class, rank;
};

std::map<std::string, Place> dictionary(const Dialects& dialects) {
  std::map<std::string, Place> places;
  const auto& grammars = dialects.grammars();
  for (std::size_t d = 0; d < grammars.size(); ++d)
    for (std::size_t c = 0; c < grammars[d].classes.size(); ++c)
      for (std::size_t w = 0; w < grammars[d].classes[c].words.size(); ++w)
        if (!places.insert({grammars[d].classes[c].words[w], {d, c, w}}).second)
          FAIL(grammars[d].classes[c].words[w] << " is in two places");
  return places;
}

// One document of a text, parsed from its characters alone.
struct Document {
  std::size_t first_char, characters, dialect;
  double nats;  // -log p of its characters
};

// The reader of a text: it knows the grammars, and sees only characters.
struct DialectScorer {
  const Dialects& dialects;
  std::map<std::string, Place> places = dictionary(dialects);

  // Adds -log p of one line, without its newline; returns its dialect.
  std::size_t read_sentence(std::string line, double& nats) const {
    const std::size_t mark = Dialect::marks.find(line.back());
    if (mark == std::string_view::npos || line[0] < 'A' || line[0] > 'Z') FAIL("not a sentence: " << line);
    line.pop_back();
    line[0] = static_cast<char>(line[0] + ('a' - 'A'));
    const Place* before = nullptr;
    for (std::size_t at = 0; at < line.size();) {
      const std::size_t end = std::min(line.find_first_of(" ,", at), line.size());
      const Place& place = places.at(line.substr(at, end - at));
      const Dialect& d = dialects.grammars()[place.dialect];
      nats -= std::log(before ? d.next[before->word_class][place.word_class] : d.start[place.word_class]);
      nats -= std::log(d.classes[place.word_class].probability[place.rank]);
      if (before && before->dialect != place.dialect) FAIL("two dialects in one sentence: " << line);
      before = &place;
      const bool comma = end < line.size() && line[end] == ',';
      if (end < line.size()) nats -= std::log(comma ? d.comma : 1 - d.comma);
      at = end + (comma ? 2 : 1);
    }
    REQUIRE(before != nullptr);
    const Dialect& d = dialects.grammars()[before->dialect];
    nats -= std::log(d.next[before->word_class].back()) + std::log(d.mark[mark]);
    return before->dialect;
  }

  // The complete documents of a text.
  std::vector<Document> read(const std::string& text) const {
    const double ends = 1 / dialects.options().sentences;
    std::vector<Document> documents;
    std::size_t at = 0;
    for (std::size_t last; (last = text.find("\n\n", at)) != std::string::npos; at = last + 2) {
      Document document{at, last + 2 - at, 0, std::log(static_cast<double>(dialects.options().dialects))};
      std::size_t sentences = 0;
      for (std::size_t line = at; line < last; ++sentences) {
        const std::size_t end = text.find('\n', line);
        const std::size_t dialect = read_sentence(text.substr(line, end - line), document.nats);
        if (sentences > 0 && dialect != document.dialect) FAIL("two dialects in the document at " << at);
        document.dialect = dialect;
        document.nats -= std::log(end == last ? ends : 1 - ends);
        line = end + 1;
      }
      documents.push_back(document);
    }
    return documents;
  }
};

struct Estimate {
  double rate, standard_error;  // nats per character
};

// Documents are independent: a ratio of sums has the standard error sqrt(sum (nats - rate chars)^2) / chars.
Estimate estimate(const std::vector<Document>& documents) {
  double nats = 0, characters = 0, squares = 0;
  for (const Document& d : documents) {
    nats += d.nats;
    characters += static_cast<double>(d.characters);
  }
  const double rate = nats / characters;
  for (const Document& d : documents) {
    const double rest = d.nats - rate * static_cast<double>(d.characters);
    squares += rest * rest;
  }
  return {rate, std::sqrt(squares) / characters};
}

void check_floor(const Dialects& dialects, Index characters, double largest_error) {
  const Dialects::Text text = dialects.generate(characters, Key{2024});
  const Estimate measured = estimate(DialectScorer{dialects}.read(text.text));
  const double stated = dialects.entropy_rate();
  INFO("measured " << measured.rate << " +- " << measured.standard_error << ", stated " << stated);
  CHECK(measured.standard_error < largest_error);  // else agreement would say nothing
  CHECK(std::abs(measured.rate - stated) < 3.5 * measured.standard_error);
}

}  // namespace

TEST_CASE(
    "the loss of a predictor that knows the grammar, on four million characters, is the stated entropy "
    "rate") {
  // The key is fixed; of all keys 1 in 2000 would exceed 3.5 standard errors. The smallest term of the floor,
  // the choice of a document's dialect, is 0.005 nats per character: leaving it out would be seven.
  check_floor(Dialects(), 4000000, 7.5e-4);
}

TEST_CASE("the stated entropy rate holds for other options and seeds") {
  for (const DialectOptions& options :
       {DialectOptions{.seed = 2, .dialects = 1, .classes = 2, .words = 4, .zipf = 0, .sentences = 1},
        DialectOptions{.seed = 3, .dialects = 7, .classes = 3, .words = 9, .zipf = 2, .sentences = 1.5},
        DialectOptions{.seed = 4, .dialects = 2, .classes = 9, .words = 300, .zipf = 0.5, .sentences = 9}})
    check_floor(Dialects(options), 200000, 3e-3);
}

TEST_CASE("the entropy rate of each dialect is the mean -log p of its documents") {
  const Dialects dialects;
  const std::vector<Document> all = DialectScorer{dialects}.read(dialects.generate(400000, Key{9}).text);
  for (std::size_t d = 0; d < 4; ++d) {
    std::vector<Document> own;
    for (const Document& document : all)
      if (document.dialect == d) own.push_back(document);
    REQUIRE(own.size() > 200);
    const Estimate measured = estimate(own);
    const double stated = dialects.entropy_rate(static_cast<int>(d));
    INFO("dialect " << d << ": measured " << measured.rate << " +- " << measured.standard_error);
    CHECK(std::abs(measured.rate - stated) < 3.5 * measured.standard_error);
  }
}

TEST_CASE("each character carries the dialect whose lexicon holds its words") {
  const Dialects dialects;
  const Dialects::Text text = dialects.generate(50000, Key{4});
  REQUIRE(text.dialect_of_char.size() == text.text.size());
  std::vector<int> seen(4);
  for (const Document& document : DialectScorer{dialects}.read(text.text)) {
    ++seen[document.dialect];
    for (std::size_t i = document.first_char; i < document.first_char + document.characters; ++i)
      if (text.dialect_of_char[i] != document.dialect) FAIL("character " << i << " has another dialect");
  }
  // about 170 documents, so about 43 of each dialect with a standard deviation of 6
  for (const int documents : seen) CHECK(documents > 13);
}

TEST_CASE("no word is in two classes or two dialects") {
  for (const std::uint64_t seed : {1, 2, 3}) {
    DialectOptions options{};
    options.seed = seed;
    options.dialects = 8;
    const Dialects dialects(options);
    // 4 + 8 + 16 + 32 + 64 words each; dictionary() insists that all differ
    CHECK(dictionary(dialects).size() == 8 * 124);
  }
}

TEST_CASE("words are spelt in lower-case letters, so spaces and marks always end them") {
  for (const auto& [word, place] : dictionary(Dialects())) {
    REQUIRE(!word.empty());
    CHECK(std::all_of(word.begin(), word.end(), [](char c) { return c >= 'a' && c <= 'z'; }));
  }
}

TEST_CASE("a key decides the text, a seed the grammar") {
  const Dialects dialects;
  const Dialects::Text text = dialects.generate(3000, Key{5});
  CHECK(Dialects().generate(3000, Key{5}).text == text.text);
  CHECK(dialects.generate(3000, Key{6}).text != text.text);
  const Dialects other({.seed = 2});
  CHECK(other.generate(3000, Key{5}).text != text.text);
  CHECK(other.entropy_rate() != dialects.entropy_rate());
}

TEST_CASE("a text has exactly the length asked for, and a longer one begins with the shorter") {
  const Dialects dialects;
  const Dialects::Text longest = dialects.generate(5000, Key{8});
  for (const Index characters : {0, 1, 2, 777, 4999}) {
    const Dialects::Text text = dialects.generate(characters, Key{8});
    REQUIRE(text.text.size() == static_cast<std::size_t>(characters));
    REQUIRE(text.dialect_of_char.size() == text.text.size());
    CHECK(longest.text.substr(0, text.text.size()) == text.text);
    const auto& labels = text.dialect_of_char;
    CHECK(std::equal(labels.begin(), labels.end(), longest.dialect_of_char.begin()));
  }
}

TEST_CASE("crowded lexicons still have enough distinct words") {
  const Dialects dialects({.dialects = 40, .classes = 2, .words = 2000});
  CHECK(dictionary(dialects).size() == 40 * 3000);
}

TEST_CASE("options out of range are rejected with the range and what was found") {
  const auto refusal = [](DialectOptions options) -> std::string {
    try {
      Dialects{options};
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return {};
  };
  const auto contains = [](const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
  };
  DialectOptions o;
  CHECK(refusal(o).empty());
  (o = {}).dialects = 0;
  CHECK(contains(refusal(o), "[1, 64]; found 0"));
  (o = {}).dialects = 65;
  CHECK(contains(refusal(o), "found 65"));
  (o = {}).classes = 1;
  CHECK(contains(refusal(o), "[2, 16]; found 1"));
  (o = {}).words = 3;
  CHECK(contains(refusal(o), "[4, 65536]; found 3"));
  (o = {}).zipf = std::nan("");
  CHECK(contains(refusal(o), "Zipf"));
  (o = {}).sentences = 0.5;
  CHECK(contains(refusal(o), "at least one sentence"));
  CHECK_THROWS_AS(Dialects().generate(-1, Key{1}), std::invalid_argument);
  CHECK_THROWS_AS(Dialects().entropy_rate(4), std::invalid_argument);
}
