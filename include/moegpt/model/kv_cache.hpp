#pragma once
// Key/value cache of generation, for all layers. Each sequence has its own length. gather copies, reorders
// and removes sequences, as for beam search, samples with a common prompt and batches whose sequences end.
#include <moegpt/core/heap_array.hpp>
#include <moegpt/model/config.hpp>
#include <moegpt/model/workspace.hpp>

#include <algorithm>
#include <span>

namespace moegpt {
inline namespace MOEGPT_BUILD {

template <Config C, class T = float>
class KVCache {
 public:
  static constexpr int Dkv = C.attention().key_value_heads() * C.attention().width();  // Hkv d

  using View = KeyValues<Dkv, T>;

  // Allocates `batch` empty sequences, the maximum. std::invalid_argument unless batch is at least 1 and
  // batch * context at most most_tokens.
  explicit KVCache(Index batch = 1) {
    check(batch > 0, "a cache for ", batch, " sequences was asked for: at least 1 is needed");
    check(batch <= most_tokens / C.context, "a cache for ", batch, " sequences of ", C.context,
          " tokens was asked for: at most ", most_tokens, " tokens are possible");
    for (auto& layer : layers_) {
      layer.keys.resize(batch * C.context);
      layer.values.resize(batch * C.context);
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

  void clear() { lengths_.fill(0); }
  // Removes the positions of `sequence` from `length` on. std::invalid_argument for length > its length.
  void truncate(Index sequence, Index length) {
    check_sequence(sequence, batch(), "KVCache::truncate");
    check(length >= 0 && length <= lengths_[sequence], "KVCache::truncate got length ", length,
          " for sequence ", sequence, ", expected 0 .. ", lengths_[sequence],
          ", the positions that it holds");
    lengths_[sequence] = length;
  }

  // Sets the number of sequences, 1 .. most_sequences(): removes the last ones, or adds empty ones.
  void resize(Index count) {
    check(count > 0 && count <= most_sequences(), "KVCache::resize to ", count, " sequences, expected 1 .. ",
          most_sequences(), ", what the cache was made for");
    const Index old = batch();
    lengths_.resize(count);
    for (Index b = old; b < count; ++b) lengths_[b] = 0;
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

  // std::invalid_argument unless each sequence b has lengths[b], or `tokens`, free positions.
  void check_remaining(Index tokens, std::span<const Index> lengths = {}) const {
    check(lengths.empty() || std::ssize(lengths) == batch(), "KVCache got ", lengths.size(), " lengths for ",
          batch(), " sequences: one each, or none for ", tokens, " tokens of each");
    for (Index b = 0; b < batch(); ++b) {
      const Index more = lengths.empty() ? tokens : lengths[static_cast<std::size_t>(b)];
      check(more >= 0 && more <= C.context - lengths_[b], "sequence ", b, " of the cache holds ", lengths_[b],
            " of ", C.context, " positions, the model's context: no room for ", more, " more, expected 0 .. ",
            C.context - lengths_[b]);
    }
  }
  // Adds lengths[b], or `tokens`, to the length of each sequence. Throws as check_remaining.
  void advance(Index tokens, std::span<const Index> lengths = {}) {
    check_remaining(tokens, lengths);
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
    return {l.keys, l.values, C.context};
  }

 private:
  struct Layer {
    Tokens<Dkv, T> keys, values;  // [most_sequences * context, Dkv]
  };
  HeapArray<Layer, C.layers> layers_;
  Buffer<Index> lengths_;                // [batch]
  Buffer<Index> old_lengths_, readers_;  // [most_sequences] scratch of gather

  static void check_sequence(Index sequence, Index batch, const char* what) {
    check(sequence >= 0 && sequence < batch, what, ": sequence ", sequence, ", expected 0 .. ", batch - 1);
  }
  void copy_rows(const KVCache& source, Index from, Index to, Index length) {
    for (int i = 0; i < C.layers; ++i) {
      const auto& theirs = source.layers_[static_cast<std::size_t>(i)];
      auto& ours = layers_[static_cast<std::size_t>(i)];
      std::copy_n(theirs.keys[from * C.context], length * Dkv, ours.keys[to * C.context]);
      std::copy_n(theirs.values[from * C.context], length * Dkv, ours.values[to * C.context]);
    }
  }
  void swap_rows(Index a, Index b, Index length) {
    for (auto& layer : layers_)
      for (auto* x : {&layer.keys, &layer.values})
        std::swap_ranges((*x)[a * C.context], (*x)[a * C.context] + length * Dkv, (*x)[b * C.context]);
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
