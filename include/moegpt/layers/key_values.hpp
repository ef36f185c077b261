#pragma once
// KeyValues: the keys and values of earlier tokens in one attention layer.
#include <moegpt/layers/attention_shape.hpp>
#include <moegpt/layers/pass.hpp>

#include <cstring>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Key/value cache of `capacity` positions per sequence: position p of sequence b is row b * capacity + p. In
// a cache of a window it is row b * capacity + p - firsts[b], and attention moves rows and `firsts` forward.
template <int Dkv, class T>
struct KeyValues {
  Out<Dkv, T> keys, values;
  Index capacity = 0;
  Index* firsts = nullptr;  // [batch] position of the first row, even; null: all 0, and rows never move

  // Stores the keys and values of a range of each sequence's tokens. key, value [tokens of the pass]
  void append(const AttentionShape& shape, In<Dkv, T> key, In<Dkv, T> value, const Pass& pass,
              Rows tokens) const {
    for (Index b = 0; b < pass.shape.batch; ++b) {
      const Index left = pass.length_of(b) - tokens.first, count = left < tokens.count ? left : tokens.count;
      if (count <= 0) continue;
      const Index position = pass.positions().first_of(b) + tokens.first;
      if (firsts) make_room(shape, b, position, count);
      const Index from = b * pass.shape.length + tokens.first;
      const Index to = b * capacity + position - (firsts ? firsts[b] : 0);
      const std::size_t bytes = bytes_of<T>(Dkv * count);
      std::memcpy(keys[to], key[from], bytes);
      std::memcpy(values[to], value[from], bytes);
    }
  }

  // std::invalid_argument if a layer cannot append the tokens of a pass.
  [[gnu::noinline]] void check_fits(const AttentionShape& shape, const Pass& pass) const {
    const Index rows = pass.shape.batch * capacity;
    if (firsts) check_window(shape, pass);
    for (Index b = 0; !firsts && b < pass.shape.batch; ++b)
      check(pass.end_of(b) <= capacity, "attention: sequence ", b, " has ", pass.end_of(b),
            " positions, but the cache has room for ", capacity, " in each sequence");
    check(keys.count >= rows && values.count >= rows, "attention: a cache with ", keys.count, " keys and ",
          values.count, " values, but ", pass.shape.batch, " sequences of ", capacity, " positions need ",
          rows, " of each");
  }

 private:
  [[gnu::noinline]] void check_window(const AttentionShape& shape, const Pass& pass) const {
    check(shape.has_window(pass.layer) && shape.stride == 0 && capacity >= shape.window_rows(),
          "attention: a cache of ", capacity,
          " rows that move, but this layer needs all positions, or more rows: use KVCache");
    check(!pass.documents, "attention: documents, but a cache of a window does not serve them");
    for (Index b = 0; b < pass.shape.batch; ++b) {
      const Index first = pass.positions().first_of(b), held = firsts[b];
      check(held >= 0 && held % 2 == 0 && (held == 0 || held + shape.reach() <= first),
            "attention: the cache of sequence ", b, " begins at position ", held,
            ", but the token at position ", first,
            " attends to earlier ones: clear the sequence and compute it again");
    }
  }
  // Moves the rows that are still attended to, if `count` positions from `position` on do not fit behind
  // them: once in shape.step tokens.
  void make_room(const AttentionShape& shape, Index b, Index position, Index count) const {
    Index& first = firsts[b];
    if (position + count - first <= capacity) return;
    const Index needed = position - shape.reach() - shape.spare, from = needed > 0 ? needed / 2 * 2 : 0;
    const std::size_t bytes = bytes_of<T>(Dkv * (position - from));
    for (const Out<Dkv, T>& rows : {keys, values})
      std::memmove(rows[b * capacity], rows[b * capacity + from - first], bytes);
    first = from;
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
