#pragma once
// Beam search with length-normalised log-probability (Wu et al. 2016, without coverage penalty):
//   score(Y) = log P(Y) / lp(Y),  lp(Y) = ((5 + |Y|) / 6)^alpha,  |Y| includes the stop id
// Each step extends every live beam by every id. Hypotheses that end with a stop id are finished: the `beams`
// highest scores of all steps are retained. Of the others, the `beams` most probable are the next live beams.
// Ties: the more probable beam, then the lower id. The search ends when no live beam can exceed the lowest
// score of `beams` finished hypotheses.
#include <moegpt/generate/generator.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct BeamSearch {
  int beams = 4;
  int tokens = 50;              // maximum number of new tokens
  double alpha = 0.6;           // exponent of the length penalty; 0: none; larger values favour longer texts
  std::vector<int> stop_ids{};  // end-of-sequence ids
  int vocab = 0;                // only ids below it; 0: all
  std::vector<int> source{};    // of an encoder-decoder model
};

struct Beam {
  std::vector<int> ids{};      // new tokens, stop id included
  double log_probability = 0;  // log P(Y), in nats
  double score = 0;            // log P(Y) / lp(Y)
  Finish finish = Finish::no;
};

// At most `beams` hypotheses by descending score; how.batch is ignored. std::invalid_argument for an empty
// prompt, an invalid id or an option out of range.
template <class Model>
std::vector<Beam> beam_search(const Model& model, std::span<const int> prompt, const BeamSearch& search = {},
                              Decoding how = {}) {
  check(search.beams > 0, "a search with ", search.beams, " beams, expected 1 or more");
  check(search.tokens > 0, "a search for texts of ", search.tokens, " tokens, expected 1 or more");
  check(search.alpha >= 0 && std::isfinite(search.alpha), "alpha is ", search.alpha,
        ", expected a finite number, 0 or more");
  check(search.source.empty() != ReadsSource<Model>, "a search with a source of ", search.source.size(),
        " ids: an encoder-decoder model needs one, other models read none");
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
  // per beam: at least `beams` ids that are not stop ids
  const auto extensions = static_cast<int>(std::min(static_cast<std::size_t>(vocab), beams + stops.size()));
  const auto score = [&](double log_probability, std::size_t length) {
    return log_probability / std::pow((5 + static_cast<double>(length)) / 6, search.alpha);
  };
  how.batch = search.beams;
  SequenceBatch<Model> sequences(model, how);
  sequences.resize(1);
  if constexpr (ReadsSource<Model>) sequences.read_source(0, search.source);
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
    // upper bound on the score of any continuation: log P cannot increase, and lp is largest at full length
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
