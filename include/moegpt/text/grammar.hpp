#pragma once
// Grammar of one synthetic dialect (see dialects.hpp): invented words in classes, and probabilities of
// successor classes. Every choice has a known probability, so the entropy of a sentence is known.
#include <moegpt/core/random.hpp>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct DialectOptions {
  std::uint64_t seed = 1;  // of the grammar; texts have keys of their own
  int dialects = 4;        // D, 1 to 64
  int classes = 5;         // word classes of each dialect, 2 to 16
  int words = 64;          // of the largest class, 4 to 65536; each class before it has half as many
  double zipf = 1;         // the word of rank r has weight r^-zipf
  double sentences = 6;    // m: the mean length of a document, at least 1
};

// The grammar of one dialect; all vectors of doubles are probabilities.
struct Dialect {
  struct WordClass {
    std::vector<std::string> words;  // most frequent first
    std::vector<double> probability;
  };
  static constexpr std::string_view marks = ".!?";

  std::vector<WordClass> classes;
  std::vector<double> start;              // of each class to open a sentence
  std::vector<std::vector<double>> next;  // [class][class of the next word]; last column: the sentence ends
  double comma;                           // of ", " between two words
  std::vector<double> mark;               // of each of the marks
};

namespace grammar {

// Index i with probability p[i], never one with p[i] = 0.
inline std::size_t draw(const std::vector<double>& p, Rng& rng) {
  double u = rng.uniform();
  std::size_t chosen = 0;
  for (std::size_t i = 0; i < p.size() && u >= 0; ++i) {
    if (p[i] <= 0) continue;
    chosen = i;
    u -= p[i];
  }
  return chosen;
}

inline double entropy(const std::vector<double>& p) {
  double h = 0;
  for (const double x : p) h -= x > 0 ? x * std::log(x) : 0;
  return h;
}

inline void normalise(std::vector<double>& p) {
  double sum = 0;
  for (const double x : p) sum += x;
  for (double& x : p) x /= sum;
}

// Syllable parts of a dialect: a random subset of each list, so dialects share letters but not frequencies.
struct Sounds {
  std::vector<std::string_view> onsets, vowels, codas;

  static std::vector<std::string_view> some(std::vector<std::string_view> all, std::size_t count, Rng& rng) {
    for (std::size_t i = 0; i < count; ++i) std::swap(all[i], all[i + rng.below(all.size() - i)]);
    all.resize(count);
    return all;
  }
  explicit Sounds(Rng& rng)
      : onsets(some({"b", "d", "f",  "g",  "h",  "k",  "l",  "m",  "n",  "p",  "r",  "s",  "t", "v",
                     "w", "z", "br", "ch", "dr", "fl", "gr", "kl", "pr", "sh", "st", "th", "tr"},
                    9, rng)),
        vowels(some({"a", "e", "i", "o", "u", "ai", "ea", "ou", "y"}, 4, rng)),
        codas(some({"k", "l", "m", "n", "r", "s", "t", "x", "nd", "rn", "sk"}, 3, rng)) {}

  std::string word(int syllables, Rng& rng) const {
    const auto one_of = [&](const auto& list) { return list[rng.below(list.size())]; };
    std::string text;
    for (int i = 0; i < syllables; ++i) text.append(one_of(onsets)).append(one_of(vowels));
    if (rng.below(2) == 0) text += one_of(codas);
    return text;
  }
};

// `size` words that are not yet in use: of one syllable or more in small classes, of two or more in large
// ones. Frequent words are short.
inline Dialect::WordClass make_class(int size, double zipf, const Sounds& sounds,
                                     std::set<std::string>& taken, Rng& rng) {
  Dialect::WordClass made;
  for (int attempt = 0; static_cast<int>(made.words.size()) < size; ++attempt) {
    const int least = size > 8 ? 2 : 1, crowded = attempt / (4 * size);
    std::string word = sounds.word(least + crowded, rng);
    if (taken.insert(word).second) made.words.push_back(std::move(word));
  }
  std::stable_sort(made.words.begin(), made.words.end(),
                   [](const auto& a, const auto& b) { return a.size() < b.size(); });
  for (int rank = 1; rank <= size; ++rank) made.probability.push_back(std::pow(rank, -zipf));
  normalise(made.probability);
  return made;
}

// Uneven weights: a class has one or two frequent successors. The cube makes the others rare; 0.01 keeps them
// possible.
inline double usual(Rng& rng) {
  const double u = rng.uniform();
  return 0.01 + u * u * u;
}

inline Dialect make_dialect(const DialectOptions& o, std::set<std::string>& taken, Rng rng) {
  const auto classes = static_cast<std::size_t>(o.classes);
  const Sounds sounds(rng);
  Dialect d;
  for (int c = 0; c < o.classes; ++c)
    d.classes.push_back(make_class(std::max(o.words >> (o.classes - 1 - c), 4), o.zipf, sounds, taken, rng));
  // Sentences begin with one of the smaller classes and end after one of the larger; none follows itself.
  for (std::size_t c = 0; c < classes; ++c) d.start.push_back(c < classes / 2 ? usual(rng) : 0);
  normalise(d.start);
  constexpr double end = 0.22;
  for (std::size_t c = 0; c < classes; ++c) {
    std::vector<double> row;
    for (std::size_t after = 0; after < classes; ++after) row.push_back(after == c ? 0 : usual(rng));
    normalise(row);
    const double ends = c >= classes / 2 ? end : 0;
    for (double& p : row) p *= 1 - ends;
    row.push_back(ends);
    d.next.push_back(std::move(row));
  }
  d.comma = 0.02 + 0.13 * rng.uniform();
  d.mark = {1, usual(rng) / 4, usual(rng) / 4};
  normalise(d.mark);
  return d;
}

// v: the mean number of words of each class in a sentence, by iterating its equation. Each round loses the
// sentences that end, so the rest shrinks geometrically.
inline std::vector<double> mean_visits(const Dialect& d) {
  std::vector<double> visits(d.start.size()), arriving = d.start;
  for (double left = 1; left > 1e-18;) {
    std::vector<double> following(arriving.size());
    left = 0;
    for (std::size_t c = 0; c < arriving.size(); ++c) {
      visits[c] += arriving[c];
      for (std::size_t after = 0; after < arriving.size(); ++after)
        following[after] += arriving[c] * d.next[c][after];
    }
    for (const double x : following) left += x;
    arriving.swap(following);
  }
  return visits;
}

struct Measure {
  double nats, characters;  // means over sentences
};
inline Measure measure_sentence(const Dialect& d) {
  const std::vector<double> visits = mean_visits(d);
  double words = 0;
  Measure m{entropy(d.start) + entropy(d.mark), 2};
  for (std::size_t c = 0; c < visits.size(); ++c) {
    const auto& [spellings, probability] = d.classes[c];
    double letters = 0;
    for (std::size_t w = 0; w < spellings.size(); ++w)
      letters += probability[w] * static_cast<double>(spellings[w].size());
    words += visits[c];
    m.nats += visits[c] * (entropy(d.next[c]) + entropy(probability));
    m.characters += visits[c] * letters;
  }
  m.nats += (words - 1) * entropy({d.comma, 1 - d.comma});
  m.characters += (words - 1) * (1 + d.comma);
  return m;
}

}  // namespace grammar

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
