#pragma once
// The keys and values of one generation, for every layer: what the model remembers of the tokens so far.
#include <moegpt/core/heap_array.hpp>
#include <moegpt/model/config.hpp>
#include <moegpt/model/workspace.hpp>

namespace moegpt::inline MOEGPT_BUILD {

template <Config C, class T = float>
class KVCache {
 public:
  static constexpr int Dkv = C.attention().key_value_heads() * C.attention().width();

  using View = KeyValues<Dkv, T>;

  explicit KVCache(Index batch = 1) : batch_(batch) {
    check(batch > 0, "a cache for ", batch, " sequences was asked for: at least 1 is needed");
    check(batch <= most_tokens / C.context, "a cache for ", batch, " sequences of ", C.context,
          " tokens was asked for: at most ", most_tokens, " tokens are possible");
    for (auto& layer : layers_) {
      layer.keys.resize(batch * C.context);
      layer.values.resize(batch * C.context);
    }
  }
  Index batch() const { return batch_; }
  Index length() const { return length_; }         // positions held, the same for every sequence
  Index room() const { return C.context - length_; }
  void clear() { length_ = 0; }
  void advance(Index tokens) {
    check(tokens >= 0 && tokens <= room(), "KVCache::advance got ", tokens, " tokens, expected 0 .. ", room());
    length_ += tokens;
  }
  View at_layer(int layer) {
    auto& l = layers_[static_cast<std::size_t>(layer)];
    return {l.keys, l.values, C.context};
  }

 private:
  struct Layer {
    Tokens<Dkv, T> keys, values;   // batch x context
  };
  HeapArray<Layer, C.layers> layers_;
  Index batch_, length_ = 0;
};

}  // namespace moegpt::inline MOEGPT_BUILD
