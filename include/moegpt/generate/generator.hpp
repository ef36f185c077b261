#pragma once
// Autoregressive sampling: Generator for one sequence, BatchGenerator for many, with continuous batching.
#include <moegpt/core/random.hpp>
#include <moegpt/generate/sampler.hpp>
#include <moegpt/generate/sequence_batch.hpp>

#include <deque>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Finish {
  no,      // not finished
  stop,    // a stop id was sampled, or the caller stopped the sequence
  length,  // the maximum number of tokens was reached
};

// One sampled token.
struct Drawn {
  Index sequence = 0;
  int id = 0;
  Finish finish = Finish::no;
  double log_probability = 0;                  // under the model; only with Sampling::log_probabilities
  std::span<const IdProbability> likeliest{};  // likewise; valid until the sequence's next token
};

// Samples from logits [vocab]; u: uniform in [0, 1). Adds the log-probabilities that Sampling requests.
template <class T>
Drawn draw(Sampler<T>& sampler, const T* logits, int vocab, double u) {
  Drawn token{.id = sampler(logits, vocab, u)};
  if (sampler.sampling().log_probabilities >= 0) {
    token.log_probability = sampler.log_probability(logits, vocab, token.id);
    token.likeliest = sampler.likeliest(logits, vocab);
  }
  return token;
}

// Generates one sequence. Only the constructor allocates.
template <class Model>
class Generator {
 public:
  using T = typename Model::Scalar;

  // noise, allowed, task and piece: see Decoding.
  Generator(const Model& model, Sampling sampling, Rng rng, Exec exec = {}, std::optional<Key> noise = {},
            const bool* allowed = nullptr, int task = 0, Index piece = 0)
      : sequences_(model, {.piece = piece, .exec = exec, .noise = noise, .allowed = allowed, .task = task}),
        sampler_(std::move(sampling)),
        rng_(rng) {
    sampler_.resize(Model::V);
  }

  // For an encoder-decoder model: encodes a source and starts a new sequence.
  void read_source(std::span<const int> ids) {
    sequences_.read_source(0, ids);
    sampler_.forget();
    drawn_ = -1;
  }
  // Appends ids and samples the next one. Penalties: if ids[0] is the id that the last call returned, it
  // counts as generated; other ids count as prompt. Throws what SequenceBatch::read and Sampler throw.
  int next(std::span<const int> ids) {
    const auto logits = sequences_.read(0, ids);
    const int drawn = std::exchange(drawn_, -1);
    const bool continues = ids[0] == drawn;
    if (continues) sampler_.accept(drawn);
    sampler_.read(ids.subspan(continues ? 1 : 0));
    last_ = draw(sampler_, logits[0], Model::V, rng_.uniform());
    return drawn_ = last_.id;
  }
  int next(int id) { return next(std::span<const int>(&id, 1)); }
  // The token of the last call of next, with its log-probabilities.
  const Drawn& last() const { return last_; }

 private:
  SequenceBatch<Model> sequences_;
  Sampler<T> sampler_;
  Rng rng_;
  Drawn last_{};
  int drawn_ = -1;
};

// One sequence of a BatchGenerator.
struct Request {
  std::vector<int> ids{};  // the prompt
  int tokens = 200;        // maximum number of new tokens
  Sampling sampling{};
  std::uint64_t seed = 1;
  std::vector<int> stop_ids{};  // end-of-sequence ids
  std::vector<int> source{};    // of an encoder-decoder model
};

// Generates queued sequences, at most Decoding::batch at a time; when one ends, the next in the queue starts.
// Its tokens and log-probabilities do not depend on the others (see SequenceBatch). add and a sequence's
// first step allocate, other steps do not. step throws what Model::logits and Sampler throw; do not use the
// generator afterwards.
template <class Model>
class BatchGenerator {
 public:
  using T = typename Model::Scalar;

  explicit BatchGenerator(const Model& model, const Decoding& how = {})
      : sequences_(model, how), places_(static_cast<std::size_t>(sequences_.most())) {
    sequences_.resize(0);
    tokens_.reserve(places_.size());
    ids_.resize(sequences_.most());
  }

  // Appends a request to the queue and returns its index: 0, 1, 2 ... Add prompts with a common prefix in
  // succession: the prefix is computed once. std::invalid_argument for an empty prompt, an invalid id or an
  // option out of range.
  Index add(Request request) {
    check(!request.ids.empty(), "nothing to continue: the prompt has no tokens");
    for (const int id : request.ids)
      check(id >= 0 && id < Model::V, "token id ", id, ", expected 0 .. ", Model::V - 1);
    check(request.source.empty() != ReadsSource<Model>, "a request with a source of ", request.source.size(),
          " ids: an encoder-decoder model needs one, other models read none");
    check(request.tokens > 0, "a text of ", request.tokens, " tokens was asked for, expected 1 or more");
    check_sampling(request.sampling, Model::V);
    waiting_.push_back({added_, std::move(request)});
    return added_++;
  }
  // True if no sequence is running or queued.
  bool done() const { return waiting_.empty() && first_running() == nullptr; }
  // Samples a token of each running sequence. The view is valid until the next call.
  std::span<const Drawn> step() {
    for (Index b = sequences_.batch() - 1; b >= 0; --b)
      if (place(b).finished) remove(b);
    tokens_.clear();
    const Index running = sequences_.batch();
    for (Index b = 0; b < running; ++b) ids_[b] = place(b).id;
    if (running > 0) {
      const auto logits = sequences_.step({ids_.begin(), static_cast<std::size_t>(running)});
      for (Index b = 0; b < running; ++b) draw_at(b, logits[b]);
    }
    while (!waiting_.empty() && sequences_.batch() < sequences_.most()) start();
    return tokens_;
  }
  // Ends a running or queued sequence; ignores other indices.
  void stop(Index sequence) {
    for (Index b = 0; b < sequences_.batch(); ++b)
      if (place(b).sequence == sequence) place(b).finished = true;
    std::erase_if(waiting_, [&](const Waiting& w) { return w.sequence == sequence; });
  }

 private:
  struct Waiting {
    Index sequence;
    Request request;
  };
  struct Place {
    Index sequence = 0;
    Sampler<T> sampler;
    Rng rng;
    std::vector<int> stop_ids;
    int left = 0, id = 0;
    bool finished = false;
  };
  SequenceBatch<Model> sequences_;
  std::vector<Place> places_;  // [most] state of each sequence in sequences_
  std::deque<Waiting> waiting_;
  std::vector<Drawn> tokens_;
  Buffer<int> ids_;
  Index added_ = 0;

  Place& place(Index b) { return places_[static_cast<std::size_t>(b)]; }
  const Place* first_running() const {
    for (Index b = 0; b < sequences_.batch(); ++b)
      if (!places_[static_cast<std::size_t>(b)].finished) return &places_[static_cast<std::size_t>(b)];
    return nullptr;
  }
  void remove(Index b) {
    std::swap(place(b), place(sequences_.batch() - 1));
    sequences_.remove(b);
  }
  void start() {
    const Waiting next = std::move(waiting_.front());
    waiting_.pop_front();
    const Request& r = next.request;
    const Index b = sequences_.batch();
    sequences_.resize(b + 1);
    Place& p = place(b);
    p.sequence = next.sequence;
    p.sampler.restart(r.sampling);
    p.sampler.resize(Model::V);
    p.sampler.read(r.ids);
    p.rng = Rng{Key{r.seed}.with(Purpose::sampling)};
    p.stop_ids = r.stop_ids;
    p.left = r.tokens;
    p.finished = false;
    if constexpr (ReadsSource<Model>) sequences_.read_source(b, r.source);
    draw_at(b, sequences_.read(b, r.ids)[0]);
  }
  void draw_at(Index b, const T* logits) {
    Place& p = place(b);
    Drawn token = draw(p.sampler, logits, Model::V, p.rng.uniform());
    p.id = token.id;
    p.sampler.accept(p.id);
    token.sequence = p.sequence;
    if (std::find(p.stop_ids.begin(), p.stop_ids.end(), p.id) != p.stop_ids.end())
      token.finish = Finish::stop;
    else if (--p.left == 0)
      token.finish = Finish::length;
    p.finished = token.finish != Finish::no;
    tokens_.push_back(token);
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
