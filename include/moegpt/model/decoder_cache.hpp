#pragma once
// DecoderCache: a KVCache whose sequences also hold the keys and values of a memory, computed once for all
// tokens that read it. gather, copy and resize apply to both.
#include <moegpt/model/decoder_block.hpp>
#include <moegpt/model/kv_cache.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// What a trunk has in addition to its Config if it is a part of a model of two trunks.
struct TrunkPart {
  int memory_dim = 0;      // features of a memory that its blocks read by cross-attention; 0: none
  int memory_context = 0;  // maximum number of tokens of a memory, for each sequence
  bool last_norm = false;  // a norm after the last block with Residual::post_norm, too
};

template <Config C, TrunkPart P, class T = float>
class DecoderCache : public KVCache<C, T> {
  using Own = KVCache<C, T>;
  static constexpr Config of_memory = [] {
    Config c = C;
    c.context = P.memory_context;
    c.window = c.stride = 0, c.window_at = {};
    return c;
  }();

 public:
  using View = DecoderKeyValues<Own::Dkv, T>;

  // Allocates `batch` empty sequences with empty memories. Throws as KVCache.
  explicit DecoderCache(Index batch = 1) : Own(batch), memory_(batch) {}

  // Number of tokens of a sequence's memory.
  Index memory_length(Index sequence) const { return memory_.length(sequence); }
  // Sets a sequence's memory: project(layer, keys, values) writes the keys and values of a layer, [length,
  // Dkv]. std::invalid_argument for a length above P.memory_context.
  template <class Project>
  void set_memory(Index sequence, Index length, const Project& project) {
    memory_.truncate(sequence, 0);
    check(length >= 0 && length <= P.memory_context, "a memory of ", length,
          " tokens, expected at most the encoder's context of ", P.memory_context);
    for (int i = 0; i < C.layers; ++i) {
      const auto all = memory_.at_layer(i);
      const Rows rows{sequence * all.capacity, length};
      project(i, all.keys.rows(rows), all.values.rows(rows));
    }
    memory_.extend(sequence, length);
  }
  void clear_memory(Index sequence) { memory_.truncate(sequence, 0); }

  void clear() { Own::clear(), memory_.clear(); }
  void resize(Index count) { Own::resize(count), memory_.resize(count); }
  void copy(const DecoderCache& source, Index from, Index to) {
    Own::copy(source, from, to), memory_.copy(source.memory_, from, to);
  }
  void gather(std::span<const Index> from) { Own::gather(from), memory_.gather(from); }
  View at_layer(int layer) {
    const auto all = memory_.at_layer(layer);
    const Rows used{0, this->batch() * all.capacity};
    return {Own::at_layer(layer),
            {all.keys.rows(used), all.values.rows(used), all.capacity},
            memory_.lengths().data()};
  }

 private:
  KVCache<of_memory, T> memory_;
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
