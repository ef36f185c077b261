#pragma once
// Key/value cache of generation, for all layers. Each sequence has its own length. gather copies, reorders
// and removes sequences, as for beam search, samples with a common prompt and batches whose sequences end.
// Layers with a window hold only the positions that it needs, so that their memory does not depend on the
// context; a sequence of theirs can be truncated by at least AttentionShape::spare tokens.
#include <moegpt/core/heap_array.hpp>
#include <moegpt/layers/key_values.hpp>
#include <moegpt/model/config.hpp>
#include <moegpt/model/workspace.hpp>

#include <algorithm>
#include <span>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <Config C, class T = float>
class KVCache {
 public:
  static constexpr AttentionShape shape = C.attention();
  static constexpr int Dkv = shape.key_value_heads() * shape.width();  // Hkv d

  using View = KeyValues<Dkv, T>;

  // Allocates `batch` empty sequences, the maximum. std::invalid_argument unless batch is at least 1 and
  // batch * context at most most_tokens.
  explicit KVCache(Index batch = 1) {
    check(batch > 0, "a cache for ", batch, " sequences was asked for: at least 1 is needed");
    check(batch <= most_tokens / C.context, "a cache for ", batch, " sequences of ", C.context,
          " tokens was asked for: at most ", most_tokens, " tokens are possible");
    for (int i = 0; i < C.layers; ++i) {
      Layer& layer = layers_[static_cast<std::size_t>(i)];
      layer.rows = shape.cache_rows(i, C.context);
      layer.keys.resize(batch * layer.rows);
      layer.values.resize(batch * layer.rows);
      layer.firsts.resize(layer.rows < C.context ? batch : 0);
    }
    for (auto* of_sequences : {&lengths_, &old_lengths_, &readers_}) of_sequences->resize(batch);
  }
  Index most_sequences() const { return readers_.size(); }
  Index batch() const { return lengths_.size(); }
  // [batch] number of cached positions
  std::span<const Index> lengths() const { return {lengths_.begin(), lengths_.end()}; }
  Index length(Index sequence) const {
    check_sequence(sequence, batch(), "KVCache::length");
    return lengths_[sequence];
  }
  // Length of the longest sequence, and number of positions free in every sequence.
  Index length() const { return *std::max_element(lengths_.begin(), lengths_.end()); }
  Index remaining() const { return C.context - length(); }

  void clear() {
    for (Index b = 0; b < batch(); ++b) empty(b);
  }
  // Whether `sequence` can be truncated to `length`: layers with a window still hold what the next token
  // attends to.
  bool can_truncate(Index sequence, Index length) const {
    check_sequence(sequence, batch(), "KVCache::can_truncate");
    return length >= 0 && length <= lengths_[sequence] && (length == 0 || first_complete(sequence) <= length);
  }
  // Removes the positions of `sequence` from `length` on. std::invalid_argument for length > its length, and
  // unless can_truncate.
  void truncate(Index sequence, Index length) {
    check_sequence(sequence, batch(), "KVCache::truncate");
    check(length >= 0 && length <= lengths_[sequence], "KVCache::truncate got length ", length,
          " for sequence ", sequence, ", expected 0 .. ", lengths_[sequence],
          ", the positions that it holds");
    check(can_truncate(sequence, length), "KVCache::truncate got length ", length, " for sequence ", sequence,
          ", but its layers with a window no longer hold what the next token attends to, expected 0 or ",
          first_complete(sequence), " .. ", lengths_[sequence],
          ": truncate it to 0 and compute its tokens again");
    if (length == 0) empty(sequence);
    lengths_[sequence] = length;
  }

  // Sets the number of sequences, 1 .. most_sequences(): removes the last ones, or adds empty ones.
  void resize(Index count) {
    check(count > 0 && count <= most_sequences(), "KVCache::resize to ", count, " sequences, expected 1 .. ",
          most_sequences(), ", what the cache was made for");
    const Index old = batch();
    lengths_.resize(count);
    for (Index b = old; b < count; ++b) empty(b);
  }

  // Copies sequence `from` of `source`, which may be this cache, to sequence `to`.
  void copy(const KVCache& source, Index from, Index to) {
    check_sequence(from, source.batch(), "KVCache::copy");
    check_sequence(to, batch(), "KVCache::copy");
    if (&source == this && from == to) return;
    copy_rows(source, from, to, source.lengths_[from]);
    lengths_[to] = source.lengths_[from];
  }
  // New sequence b = old sequence from[b]; the new batch is from.size(), at most most_sequences(). Does not
  // allocate. Noise of routers depends on the new index. std::invalid_argument for another size or index.
  void gather(std::span<const Index> from) {
    const Index count = std::ssize(from);
    check(count > 0 && count <= most_sequences(), "KVCache::gather got ", count, " sequences, expected 1 .. ",
          most_sequences(), ", what the cache was made for");
    for (const Index f : from) check_sequence(f, batch(), "KVCache::gather");
    std::copy(lengths_.begin(), lengths_.end(), old_lengths_.begin());
    lengths_.resize(count);
    for (Index b = 0; b < count; ++b) lengths_[b] = old_lengths_[from[static_cast<std::size_t>(b)]];
    move_rows(from);
  }

  // std::invalid_argument unless each sequence b has lengths[b], or `tokens`, free positions, and layers with
  // a window hold what they attend to.
  void check_remaining(Index tokens, std::span<const Index> lengths = {}) const {
    check_free(tokens, lengths);
    for (Index b = 0; b < batch(); ++b)
      check(
          first_complete(b) <= lengths_[b], "sequence ", b, " of the cache holds ", lengths_[b],
          " positions, but a call that threw has overwritten some of its layers with a window: truncate it ",
          "to 0 and compute its tokens again");
  }
  // Adds lengths[b], or `tokens`, to the length of each sequence. std::invalid_argument unless they are
  // free.
  void advance(Index tokens, std::span<const Index> lengths = {}) {
    check_free(tokens, lengths);
    for (Index b = 0; b < batch(); ++b)
      lengths_[b] += lengths.empty() ? tokens : lengths[static_cast<std::size_t>(b)];
  }
  // Adds `tokens` to the length of one sequence.
  void extend(Index sequence, Index tokens) {
    check_sequence(sequence, batch(), "KVCache::extend");
    check(tokens >= 0 && tokens <= C.context - lengths_[sequence], "KVCache::extend by ", tokens,
          " tokens, expected 0 .. ", C.context - lengths_[sequence]);
    lengths_[sequence] += tokens;
  }
  View at_layer(int layer) {
    auto& l = layers_[static_cast<std::size_t>(layer)];
    return {l.keys, l.values, l.rows, l.firsts.size() > 0 ? l.firsts.data() : nullptr};
  }

 private:
  struct Layer {
    Index rows = 0;               // per sequence: the context, or those of a window
    Tokens<Dkv, T> keys, values;  // [most_sequences * rows, Dkv]
    Buffer<Index> firsts;         // [most_sequences] position of the first row; of a window only

    Index first(Index sequence) const { return firsts.size() > 0 ? firsts[sequence] : 0; }
  };
  HeapArray<Layer, C.layers> layers_;
  Buffer<Index> lengths_;                // [batch]
  Buffer<Index> old_lengths_, readers_;  // [most_sequences] scratch of gather

  static void check_sequence(Index sequence, Index batch, const char* what) {
    check(sequence >= 0 && sequence < batch, what, ": sequence ", sequence, ", expected 0 .. ", batch - 1);
  }
  void check_free(Index tokens, std::span<const Index> lengths) const {
    check(lengths.empty() || std::ssize(lengths) == batch(), "KVCache got ", lengths.size(), " lengths for ",
          batch(), " sequences: one each, or none for ", tokens, " tokens of each");
    for (Index b = 0; b < batch(); ++b) {
      const Index more = lengths.empty() ? tokens : lengths[static_cast<std::size_t>(b)];
      check(more >= 0 && more <= C.context - lengths_[b], "sequence ", b, " of the cache holds ", lengths_[b],
            " of ", C.context, " positions, the model's context: no room for ", more, " more, expected 0 .. ",
            C.context - lengths_[b]);
    }
  }
  void empty(Index sequence) {
    lengths_[sequence] = 0;
    for (Layer& layer : layers_)
      if (layer.firsts.size() > 0) layer.firsts[sequence] = 0;
  }
  // The least length of a sequence whose next token finds all positions that it attends to. Length 0 is one.
  Index first_complete(Index sequence) const {
    Index most = 0;
    for (const Layer& layer : layers_)
      if (layer.first(sequence) > 0) most = std::max(most, layer.first(sequence) + shape.reach());
    return most;
  }
  void copy_rows(const KVCache& source, Index from, Index to, Index length) {
    for (std::size_t i = 0; i < C.layers; ++i) {
      const Layer& theirs = source.layers_[i];
      Layer& ours = layers_[i];
      const Index rows = ours.rows, count = std::clamp<Index>(length - theirs.first(from), 0, rows) * Dkv;
      std::copy_n(theirs.keys[from * rows], count, ours.keys[to * rows]);
      std::copy_n(theirs.values[from * rows], count, ours.values[to * rows]);
      if (ours.firsts.size() > 0) ours.firsts[to] = theirs.firsts[from];
    }
  }
  void swap_rows(Index a, Index b, Index length) {
    for (Layer& layer : layers_) {
      const Index rows = layer.rows, held = length - std::min(layer.first(a), layer.first(b));
      const Index count = std::clamp<Index>(held, 0, rows) * Dkv;
      for (auto* x : {&layer.keys, &layer.values})
        std::swap_ranges((*x)[a * rows], (*x)[a * rows] + count, (*x)[b * rows]);
      if (layer.firsts.size() > 0) std::swap(layer.firsts[a], layer.firsts[b]);
    }
  }
  // Gather in place. Reader b of sequence a: from[b] = a. Sequences without readers are overwritten first,
  // which removes a reader from their sources. Then each remaining sequence has exactly one reader: these are
  // cycles, rotated by swaps.
  void move_rows(std::span<const Index> from) {
    constexpr Index done = -1;
    const Index count = std::ssize(from);
    const auto source = [&](Index b) { return from[static_cast<std::size_t>(b)]; };
    readers_.fill(0);
    for (Index b = 0; b < count; ++b)
      if (source(b) != b) ++readers_[source(b)];
    for (Index start = 0; start < count; ++start)
      for (Index b = start; b < count && readers_[b] == 0; b = source(b)) {
        readers_[b] = done;
        if (source(b) == b) break;
        copy_rows(*this, source(b), b, lengths_[b]);
        --readers_[source(b)];
      }
    for (Index start = 0; start < count; ++start)
      for (Index b = start; readers_[b] != done; b = source(b)) {  // b holds the old rows of start
        readers_[b] = done;
        if (readers_[source(b)] != done) swap_rows(b, source(b), std::max(old_lengths_[start], lengths_[b]));
      }
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
