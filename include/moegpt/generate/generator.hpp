#pragma once
// Sampling from a model, one token after another: Generator continues one text, BatchGenerator many at a
// time.
#include <moegpt/core/random.hpp>
#include <moegpt/generate/sampler.hpp>
#include <moegpt/generate/sequence_batch.hpp>

#include <deque>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Finish {
  no,      // more tokens follow
  stop,    // a stop id was drawn, or the caller stopped the sequence
  length,  // as many tokens as were asked for
};

struct Drawn {
  Index sequence = 0;
  int id = 0;
  Finish finish = Finish::no;
  double log_probability = 0;                  // of the model; only with Sampling::log_probabilities
  std::span<const IdProbability> likeliest{};  // likewise; lives until the next token of the sequence
};

// Draws from a row of logits, and what Sampling::log_probabilities asks for.
template <class T>
Drawn draw(Sampler<T>& sampler, const T* logits, int vocab, double u) {
  Drawn token{.id = sampler(logits, vocab, u)};
  if (sampler.sampling().log_probabilities >= 0) {
    token.log_probability = sampler.log_probability(logits, vocab, token.id);
    token.likeliest = sampler.likeliest(logits, vocab);
  }
  return token;
}

// One growing text. After construction nothing allocates.
template <class Model>
class Generator {
 public:
  using T = typename Model::Scalar;

  // allowed [experts], task and piece: as of Decoding.
  Generator(const Model& model, Sampling sampling, Rng rng, Exec exec = {}, std::optional<Key> noise = {},
            const bool* allowed = nullptr, int task = 0, Index piece = 0)
      : sequences_(model, {.piece = piece, .exec = exec, .noise = noise, .allowed = allowed, .task = task}),
        sampler_(std::move(sampling)),
        rng_(rng) {
    sampler_.resize(Model::V);
  }

  // Reads ids and draws what follows them. Penalties: an id counts as generated if next returned it last and
  // reads it first, other ids count as prompt.
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
  // What next returned last, with its log-probabilities.
  const Drawn& last() const { return last_; }

 private:
  SequenceBatch<Model> sequences_;
  Sampler<T> sampler_;
  Rng rng_;
  Drawn last_{};
  int drawn_ = -1;
};

// One text of a batch.
struct Request {
  std::vector<int> ids{};  // the prompt
  int tokens = 200;        // at most
  Sampling sampling{};
  std::uint64_t seed = 1;
  std::vector<int> stop_ids{};  // each ends the text
};

// Many texts: `batch` of Decoding at a time, the others wait until one ends. A text's tokens and
// log-probabilities are those that it has alone (see SequenceBatch). Steps do not allocate; add and the first
// step of a text do. step throws what Model::logits and Sampler throw; the generator is of no use then.
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

  // Its number: 0, 1, 2 ... in the order of calls. Texts with the same prompt, or the same beginning of it,
  // are best added one after another: what they share is read once.
  Index add(Request request) {
    check(!request.ids.empty(), "nothing to continue: the prompt has no tokens");
    for (const int id : request.ids)
      check(id >= 0 && id < Model::V, "token id ", id, ", expected 0 .. ", Model::V - 1);
    check(request.tokens > 0, "a text of ", request.tokens, " tokens was asked for, expected 1 or more");
    check_sampling(request.sampling, Model::V);
    waiting_.push_back({added_, std::move(request)});
    return added_++;
  }
  // Whether no text is left.
  bool done() const { return waiting_.empty() && first_running() == nullptr; }
  // The next token of each text in the batch. The view lives until the next call.
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
  // No further token of this text is wanted. A text that has ended, or a number that add did not return, is
  // ignored.
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
  std::vector<Place> places_;  // [most] of the sequences's sequences
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
