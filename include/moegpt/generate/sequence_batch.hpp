#pragma once
// SequenceBatch: batched decoding. It holds token sequences with their key/value cache, and computes
// next-token logits. A prompt is prefilled alone, in chunks of `piece` tokens; a step decodes one id of every
// sequence in one forward. With causal routing and no capacity, the bits of a sequence's logits do not depend
// on other sequences, their order, `piece` or the number of threads. Of an EncoderDecoder, each sequence has
// a source, which is encoded once.
#include <moegpt/model/encoder_decoder.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct Decoding {
  Index batch = 1;  // maximum number of sequences
  Index piece = 0;  // prefill chunk, in tokens; 0: the context
  Exec exec{};
  std::optional<Key> noise{};     // RNG key of noisy routers, the same for each sequence; none: no noise
  const bool* allowed = nullptr;  // [experts] allowed experts; null: all
  int task = 0;                   // task id of Masked routers
};

namespace detail {

// The decoder of an encoder-decoder model, another model itself.
template <class Model>
const auto& decoder_of(const Model& model) {
  if constexpr (ReadsSource<Model>)
    return model.decoder;
  else
    return model;
}
template <class Model>
using DecoderOf = std::remove_cvref_t<decltype(decoder_of(std::declval<const Model&>()))>;

// Encodes the sources of sequences; nothing for a model without.
template <class Model>
struct SourceReader {
  SourceReader(const Model&, const Decoding&) {}
};
template <ReadsSource Model>
struct SourceReader<Model> {
  const Model& model;
  typename Model::EncoderType::Workspace work;

  SourceReader(const Model& model_, const Decoding& how)
      : model(model_), work({1, Model::EncoderType::config.context}, how.exec, {}, Use::inference) {
    work.task = how.task;
  }
};

}  // namespace detail

// Only the constructor allocates. Members throw std::invalid_argument for an index, size or id out of
// range. After another error, clear the sequence.
template <class Model>
class SequenceBatch {
 public:
  using Decoder = detail::DecoderOf<Model>;
  using T = typename Model::Scalar;
  using Logits = In<Model::V, T>;
  static constexpr Index context = Model::config.context;

  // Starts with how.batch empty sequences. `model` must outlive it.
  explicit SequenceBatch(const Model& model, const Decoding& how = {})
      : model_(detail::decoder_of(model)),
        source_(model, how),
        noise_(how.noise),
        piece_(how.piece > 0 ? std::min(how.piece, context) : context),
        most_(checked(how).batch),
        count_(most_),
        reading_({1, piece_}, how.exec, {}, Use::inference, most_source),
        cache_(most_) {
    if (most_ > 1) {
      stepping_.emplace(Shape{most_, 1}, how.exec, Objective{}, Use::inference, most_source);
      alone_.emplace(1);
      stepping_->allowed = how.allowed, stepping_->task = how.task;
    }
    reading_.allowed = how.allowed, reading_.task = how.task;
    for (auto* held : {&held_, &old_held_}) held->resize((most_ + 1) * context);
    for (auto* numbers : {&order_, &lengths_}) numbers->resize(most_);
  }

  Index most() const { return most_; }
  Index batch() const { return count_; }
  // Ids of a sequence whose keys and values are cached: its last ones.
  std::span<const int> ids(Index sequence) const {
    check_sequence(sequence, "SequenceBatch::ids");
    return {held(sequence), static_cast<std::size_t>(cache_.length(sequence))};
  }
  void clear(Index sequence) {
    check_sequence(sequence, "SequenceBatch::clear");
    cache_.truncate(sequence, 0);
  }
  // Sets the number of sequences; new ones are empty.
  void resize(Index count) {
    check(count >= 0 && count <= most_, "SequenceBatch::resize to ", count, " sequences, expected 0 .. ",
          most_);
    if (count_ == 0 || count == 0) {
      cache_.truncate(0, 0);
      if constexpr (ReadsSource<Model>) cache_.clear_memory(0);
    }
    cache_.resize(std::max(count, Index{1}));  // a cache has at least one sequence
    count_ = count;
  }
  // New sequence b = old sequence from[b]; the new batch is from.size(), at least 1.
  void gather(std::span<const Index> from) {
    for (const Index f : from) check_sequence(f, "SequenceBatch::gather");
    cache_.gather(from);
    std::swap(held_, old_held_);
    std::copy_n(old_held_.begin() + most_ * context, context, held(most_));
    count_ = std::ssize(from);
    for (Index b = 0; b < count_; ++b)
      std::copy_n(old_held_.begin() + from[static_cast<std::size_t>(b)] * context, cache_.length(b), held(b));
  }
  // Removes a sequence; the last one takes its index.
  void remove(Index sequence) {
    check_sequence(sequence, "SequenceBatch::remove");
    if (count_ == 1) return resize(0);
    for (Index b = 0; b < count_ - 1; ++b) order_[b] = b;
    if (sequence < count_ - 1) order_[sequence] = count_ - 1;
    gather({order_.begin(), static_cast<std::size_t>(count_ - 1)});
  }

  // Encodes the source of a sequence, 1 .. context ids of the encoder, and clears the sequence. `read` and
  // `step` continue it; its source is in use until the next call.
  void read_source(Index sequence, std::span<const int> ids) {
    static_assert(ReadsSource<Model>, "SequenceBatch: only an encoder-decoder model reads a source");
    check_sequence(sequence, "SequenceBatch::read_source");
    source_.model.read_source(ids, sequence, source_.work, cache_, noise_);
  }

  // Appends ids [1 or more] to a sequence and returns the next-token logits [1, V] after the last. Only the
  // last `context` ids are used. If they exceed the context, at most the last context / 2 old ids are
  // retained and recomputed from position 0. A prefix in common with the last prompt is not recomputed. The
  // view is valid until the next call.
  Logits read(Index sequence, std::span<const int> ids) {
    check_sequence(sequence, "SequenceBatch::read");
    check(!ids.empty(), "nothing to continue: the prompt has no tokens");
    check_tokens(ids);
    check_source(sequence);
    if (std::ssize(ids) > context) ids = ids.last(context);
    Index length = cache_.length(sequence);
    int* const all = held(sequence);
    if (std::ssize(ids) > context - length) {
      const Index keep = std::min<Index>(context / 2, context - std::ssize(ids));
      std::copy(all + length - keep, all + length, all);
      cache_.truncate(sequence, 0);
      length = keep;
    }
    std::copy(ids.begin(), ids.end(), all + length);
    return fill(sequence, length + std::ssize(ids));
  }

  // Appends one id to each sequence, ids [batch()], and returns the next-token logits [batch(), V]. The view
  // is valid until the next call.
  Logits step(std::span<const int> ids) {
    check(count_ > 0 && std::ssize(ids) == count_, "SequenceBatch::step got ", ids.size(), " ids for ",
          count_, " sequences: one each");
    check_tokens(ids);
    for (Index b = 0; b < count_; ++b) check_source(b);
    if (!stepping_) return read(0, ids);
    // Noise depends on a sequence's index in its cache, so with noise each is computed alone.
    const bool alone = noise_ && count_ > 1;
    Index together = 0;
    for (Index b = 0; b < count_; ++b) {
      const Index length = cache_.length(b);
      lengths_[b] = !alone && length < context;
      together += lengths_[b];
      if (lengths_[b]) held(b)[length] = ids[static_cast<std::size_t>(b)];
    }
    auto& logits = stepping_->tape.head.logits;
    logits.resize(count_);
    std::span<const Index> lengths{lengths_.begin(), ids.size()};
    if (together == count_) lengths = {};  // all
    if (together > 0) model_.logits(ids, lengths, *stepping_, cache_, noise_);
    for (Index b = 0; b < count_; ++b)
      if (!lengths_[b])
        std::copy_n(read(b, ids.subspan(static_cast<std::size_t>(b), 1))[0], Model::V, logits[b]);
    return logits;
  }

 private:
  static constexpr Index most_source = [] {
    if constexpr (ReadsSource<Model>) return Model::EncoderType::config.context;
    return 0;
  }();
  const Decoder& model_;
  [[no_unique_address]] detail::SourceReader<Model> source_;
  std::optional<Key> noise_;
  Index piece_, most_, count_;
  Workspace<Decoder> reading_;                  // prefill: [1, piece]
  std::optional<Workspace<Decoder>> stepping_;  // steps: [most, 1]; only if most > 1
  typename Decoder::Cache cache_;
  std::optional<typename Decoder::Cache> alone_;  // prefill cache, one sequence; only if most > 1
  Buffer<int> held_, old_held_;                   // [most + 1, context] ids of cache_, then of alone_
  Buffer<Index> order_, lengths_;                 // [most]
  static const Decoding& checked(const Decoding& how) {
    check(how.piece >= 0, "the piece of a prompt is ", how.piece,
          " tokens, expected 1 or more, or 0 for the context");
    return how;
  }
  int* held(Index sequence) { return held_.begin() + sequence * context; }
  const int* held(Index sequence) const { return held_.begin() + sequence * context; }
  void check_sequence(Index sequence, const char* what) const {
    check(sequence >= 0 && sequence < count_, what, ": sequence ", sequence, ", expected 0 .. ", count_ - 1);
  }
  void check_source(Index sequence) const {
    if constexpr (ReadsSource<Model>)
      check(cache_.memory_length(sequence) > 0, "sequence ", sequence,
            " has no source: call read_source first");
  }
  static void check_tokens(std::span<const int> ids) {
    for (const int id : ids)
      check(id >= 0 && id < Model::V, "token id ", id, ", expected 0 .. ", Model::V - 1);
  }
  // True if keys and values depend on the ids alone, not on a source or the partition of a sequence into
  // calls.
  bool independent() const {
    return !ReadsSource<Model> && !allows_non_causal<typename Decoder::RouterRecipe> &&
           model_.options.capacity_factor == 0;
  }

  // Computes the first `total` ids of a sequence as far as they are not cached.
  Logits fill(Index sequence, Index total) {
    const int* const all = held(sequence);
    auto& cache = alone_ ? *alone_ : cache_;
    if (alone_) {
      int* const old = held(most_);
      const Index most = independent() ? std::min(alone_->length(0), total - 1) : 0;
      const Index same = std::mismatch(old, old + most, all).first - old;
      if (!ReadsSource<Model> && same >= cache_.length(sequence) && alone_->can_truncate(0, same))
        alone_->truncate(0, same);
      else
        alone_->copy(cache_, sequence, 0);
      std::copy_n(all, total, old);
    }
    Logits logits;
    for (Index first = cache.length(0); first < total; first = cache.length(0)) {
      const Index count = std::min(piece_, total - first);
      logits =
          model_.last_logits({all + first, static_cast<std::size_t>(count)}, {}, reading_, cache, noise_);
    }
    if (alone_) cache_.copy(*alone_, 0, sequence);
    return logits;
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
