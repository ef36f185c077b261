#pragma once
// Beam search: the continuations of the highest length-normalised log-probability that a search of limited
// width finds (Wu et al. 2016, without coverage):
//   score(Y) = log P(Y) / lp(Y),  lp(Y) = ((5 + |Y|) / 6)^alpha,  |Y| with the stop id
// Each step extends every live beam by every id. Of those that end by a stop id the `beams` highest scores of
// all steps are kept, of the others the `beams` likeliest are the next live beams. Equal probabilities: the
// better beam, then the lower id. The search ends when no live beam can exceed the worst of `beams` ended
// ones.
#include <moegpt/generate/generator.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct BeamSearch {
  int beams = 4;
  int tokens = 50;              // at most
  double alpha = 0.6;           // 0: by log P alone; larger: longer texts
  std::vector<int> stop_ids{};  // each ends a text
  int vocab = 0;                // only ids below this; 0: all
};

struct Beam {
  std::vector<int> ids{};      // after the prompt, with the stop id
  double log_probability = 0;  // natural logarithm
  double score = 0;
  Finish finish = Finish::no;
};

// At most `beams` texts, the highest score first. how.batch is replaced by the number of beams.
// std::invalid_argument for a prompt or options without meaning.
template <class Model>
std::vector<Beam> beam_search(const Model& model, std::span<const int> prompt, const BeamSearch& search = {},
                              Decoding how = {}) {
  check(search.beams > 0, "a search with ", search.beams, " beams, expected 1 or more");
  check(search.tokens > 0, "a search for texts of ", search.tokens, " tokens, expected 1 or more");
  check(search.alpha >= 0 && std::isfinite(search.alpha), "alpha is ", search.alpha,
        ", expected a finite number, 0 or more");
  check(search.vocab >= 0, "the vocab of the search is ", search.vocab, ", expected 0 (all) or more");
  struct Candidate {
    double log_probability;
    Index beam;
    int id;
    bool operator<(const Candidate& other) const {  // better
      if (log_probability != other.log_probability) return log_probability > other.log_probability;
      return beam != other.beam ? beam < other.beam : id < other.id;
    }
  };
  const int vocab = search.vocab > 0 ? std::min(search.vocab, Model::V) : Model::V;
  const auto beams = static_cast<std::size_t>(search.beams);
  std::vector<int> stops;  // ascending, each once
  for (const int id : search.stop_ids)
    if (id >= 0 && id < vocab) stops.push_back(id);
  std::sort(stops.begin(), stops.end());
  stops.erase(std::unique(stops.begin(), stops.end()), stops.end());
  // of each beam so many that `beams` are left if every stop id is among them
  const auto extensions = static_cast<int>(std::min(static_cast<std::size_t>(vocab), beams + stops.size()));
  const auto score = [&](double log_probability, std::size_t length) {
    return log_probability / std::pow((5 + static_cast<double>(length)) / 6, search.alpha);
  };
  how.batch = search.beams;
  SequenceBatch<Model> sequences(model, how);
  sequences.resize(1);
  auto logits = sequences.read(0, prompt);
  std::vector<Beam> live(1), next, ended;
  std::vector<Candidate> candidates;
  std::vector<Index> from;
  std::vector<int> ids, likeliest(static_cast<std::size_t>(extensions));
  const auto extended = [](const Beam& beam, int id, double log_probability) {
    Beam longer{.ids = beam.ids, .log_probability = log_probability};
    longer.ids.push_back(id);
    return longer;
  };
  const auto better = [](const Beam& a, const Beam& b) { return a.score > b.score; };
  const auto end = [&](Beam beam, Finish finish) {
    beam.score = score(beam.log_probability, beam.ids.size());
    beam.finish = finish;
    ended.insert(std::upper_bound(ended.begin(), ended.end(), beam, better), std::move(beam));
    if (ended.size() > beams) ended.pop_back();
  };

  for (int token = 1;; ++token) {
    candidates.clear();
    for (std::size_t b = 0; b < live.size(); ++b) {
      const auto* z = logits[static_cast<Index>(b)];
      const double before = live[b].log_probability, lse = log_normalizer(z, vocab);
      const auto with = [&](int id) { return before + (static_cast<double>(z[id]) - lse); };
      for (const int id : stops) end(extended(live[b], id, with(id)), Finish::stop);
      kernels::top_k(z, vocab, extensions, likeliest.data());
      for (const int id : likeliest)
        if (!std::binary_search(stops.begin(), stops.end(), id))
          candidates.push_back({with(id), static_cast<Index>(b), id});
    }
    const auto count = static_cast<std::ptrdiff_t>(std::min(beams, candidates.size()));
    std::partial_sort(candidates.begin(), candidates.begin() + count, candidates.end());
    next.clear(), from.clear(), ids.clear();
    for (const Candidate& c : std::span(candidates).first(static_cast<std::size_t>(count))) {
      next.push_back(extended(live[static_cast<std::size_t>(c.beam)], c.id, c.log_probability));
      from.push_back(c.beam), ids.push_back(c.id);
    }
    std::swap(live, next);
    if (live.empty()) return ended;
    if (token == search.tokens) break;
    // a log-probability only falls, and the longest text divides it by the most
    const double reachable = score(live[0].log_probability, static_cast<std::size_t>(search.tokens));
    if (ended.size() == beams && ended.back().score >= reachable) return ended;
    sequences.gather(from);
    logits = sequences.step(ids);
  }
  for (Beam& beam : live) end(std::move(beam), Finish::length);
  return ended;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
