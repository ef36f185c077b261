#pragma once
// A synthetic corpus of known entropy rate: documents in several dialects, each with its own words and its
// own order of word classes. The loss can be compared with the entropy rate, every character has a dialect
// label, and the length is unlimited.
//
// Grammar. A document has one dialect, sampled uniformly. It is a number of sentences, one per line, and an
// empty line. A sentence is words separated by " " or ", ", with ".", "!" or "?" at the end; its first letter
// is a capital. In dialect d the first word's class is sampled from start_d. After a word of class c the
// sentence ends, or continues with a word of class c', with probabilities next_d[c]. The word is sampled from
// its class by Zipf's law. After each sentence the document ends with probability 1/m.
//
// Entropy rate. No word is in two classes or two dialects, so a text determines every choice of its
// generation, and its probability is the product of theirs: the mean of -log p of a document is the sum of
// the entropies of its choices. With v_c the mean number of words of class c in a sentence of dialect d,
// which solves
// v = start_d + transpose(next_d) v, entropies H in nats and q_d the probability of a comma,
//     nats of a sentence   S_d = H(start_d) + sum_c v_c (H(next_d[c]) + H(words of c))
//                                + (sum_c v_c - 1) H(q_d) + H(marks_d)
//     its characters       C_d = sum_c v_c (mean letters of c) + (sum_c v_c - 1) (1 + q_d) + 2
//     nats per character   h   = (ln D + mean_d m (S_d + H(1/m))) / (1 + mean_d m C_d)
// since documents are independent (renewal-reward theorem). No predictor has a smaller mean loss in the
// limit. If the context is too short to determine dialect and class, the least loss is slightly larger.
#include <moegpt/text/grammar.hpp>

#include <cstdint>

namespace moegpt {
inline namespace MOEGPT_BUILD {

class Dialects {
 public:
  struct Text {
    std::string text;                           // ASCII, so a character is a byte and a token
    std::vector<std::uint8_t> dialect_of_char;  // [text.size()], in [0, D)
  };

  // Throws std::invalid_argument if an option is outside the range in DialectOptions.
  explicit Dialects(const DialectOptions& options) : options_(options) {
    const DialectOptions& o = options_;
    check(o.dialects >= 1 && o.dialects <= 64, "dialects must be in [1, 64]; found ", o.dialects);
    check(o.classes >= 2 && o.classes <= 16, "word classes must be in [2, 16]; found ", o.classes);
    check(o.words >= 4 && o.words <= 65536, "the words of a class must be in [4, 65536]; found ", o.words);
    check(o.zipf >= 0 && o.zipf <= 8, "the exponent of Zipf's law must be in [0, 8]; found ", o.zipf);
    check(o.sentences >= 1 && o.sentences <= 1e9, "a document has at least one sentence on average; found ",
          o.sentences);
    std::set<std::string> taken;
    for (int d = 0; d < o.dialects; ++d) {
      const Key key = Key{o.seed}.with(Purpose::corpus).with(Purpose::corpus, static_cast<std::uint64_t>(d));
      dialects_.push_back(grammar::make_dialect(o, taken, Rng(key)));
    }
  }
  Dialects() : Dialects(DialectOptions{}) {}

  // The first `characters` characters of a text that is a function of the key. A new key gives independent
  // text of the same grammar; a longer text begins with the shorter one.
  Text generate(Index characters, Key key) const {
    check(characters >= 0, "cannot generate a text of ", characters, " characters");
    const auto wanted = static_cast<std::size_t>(characters);
    Rng rng(key.with(Purpose::corpus));
    Text out;
    while (out.text.size() < wanted) {
      const auto d = static_cast<std::size_t>(rng.below(dialects_.size()));
      do append_sentence(dialects_[d], rng, out.text);
      while (rng.uniform() >= 1 / options_.sentences && out.text.size() < wanted);
      out.text += '\n';
      out.dialect_of_char.resize(out.text.size(), static_cast<std::uint8_t>(d));
    }
    out.text.resize(wanted);
    out.dialect_of_char.resize(wanted);
    return out;
  }

  // h: the least mean loss of any predictor, in nats per character.
  double entropy_rate() const {
    double nats = 0, characters = 0;
    for (const Dialect& d : dialects_) {
      const grammar::Measure document = measure_document(d);
      nats += document.nats;
      characters += document.characters;
    }
    return nats / characters;
  }
  // The same for the characters of one dialect, with the entropy of the choice of the dialect.
  double entropy_rate(int dialect) const {
    check(dialect >= 0 && dialect < options_.dialects, "dialect ", dialect, " is outside [0, ",
          options_.dialects, ")");
    const grammar::Measure document = measure_document(dialects_[static_cast<std::size_t>(dialect)]);
    return document.nats / document.characters;
  }

  const DialectOptions& options() const { return options_; }
  const std::vector<Dialect>& grammars() const { return dialects_; }

 private:
  static void append_sentence(const Dialect& d, Rng& rng, std::string& text) {
    const std::size_t first = text.size(), end = d.classes.size();
    for (std::size_t c = grammar::draw(d.start, rng); c != end;) {
      const Dialect::WordClass& of = d.classes[c];
      text += of.words[grammar::draw(of.probability, rng)];
      c = grammar::draw(d.next[c], rng);
      if (c != end) text += rng.uniform() < d.comma ? ", " : " ";
    }
    text[first] = static_cast<char>(text[first] - 'a' + 'A');
    text += Dialect::marks[grammar::draw(d.mark, rng)];
    text += '\n';
  }

  grammar::Measure measure_document(const Dialect& d) const {
    const double m = options_.sentences;
    const grammar::Measure sentence = grammar::measure_sentence(d);
    const double which = std::log(static_cast<double>(options_.dialects));
    const double goes_on = grammar::entropy({1 / m, 1 - 1 / m});
    return {which + m * (sentence.nats + goes_on), 1 + m * sentence.characters};
  }

  DialectOptions options_;
  std::vector<Dialect> dialects_;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
