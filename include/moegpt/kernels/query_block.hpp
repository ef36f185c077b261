#pragma once
// Parameters of one (sequence, head) of attention, and products for a block of its queries, which skip masked
// tiles. The queries of a block are the lanes of vectors.
#include <moegpt/core/random.hpp>
#include <moegpt/kernels/key_rule.hpp>
#include <moegpt/kernels/tile.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

namespace kernels {

// Parameters of one (sequence, head).
template <class T>
struct AttentionHead {
  T scale;
  KeyRule rule{};
  double dropout = 0;    // rate, on probabilities
  Key key{};             // RNG key of this sequence's and head's dropout mask
  Index key_stride = 0;  // counter = query position * key_stride + key / 2: one draw per two keys
};

inline constexpr Index attention_step = tile_rows;  // rows of a product that share one causal limit

namespace detail {

// An integer of the size of T, for the random bits that decide one element.
template <class T>
using Word = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

// Queries `rows` of a head: query rows.first + i is lane i % W of vector i / W.
template <class T>
struct QueryBlock {
  static constexpr int W = lanes<T>;
  const AttentionHead<T>& head;
  Rows rows;
  Index width = whole_vectors<T>(rows.count);  // of a row of scores
  Rows run = head.rule.run(rows);              // of keys

  // For the vector at lane i: keys of any lane are in [any_begin, any_end), keys of all lanes are [all_begin,
  // all_end).
  Index any_begin(Index i) const { return head.rule.begin(rows.first + i); }
  Index all_begin(Index i) const { return head.rule.begin(rows.first + last_lane(i)); }
  Index all_end(Index i) const { return head.rule.end(rows.first + i); }
  Index any_end(Index i) const { return head.rule.end(rows.first + last_lane(i)); }
  // Lanes [first_lane(j), end_lane(j)) attend to key j.
  Index first_lane(Index j) const {
    const Index by_mask = head.rule.first_query(j) - rows.first;
    Index i = by_mask > 0 ? by_mask : 0;
    if (head.rule.own)
      while (i < rows.count && head.rule.end(rows.first + i) <= j) ++i;
    return i;
  }
  Index end_lane(Index j) const {
    const Index by_window = head.rule.end_query(j, rows.first + rows.count) - rows.first;
    Index i = by_window > 0 ? by_window : 0;
    if (head.rule.own)
      while (i > 0 && head.rule.begin(rows.first + i - 1) > j) --i;
    return i;
  }
  // Begin and end of the keys of each lane of the vector at i.
  Vector<T> starts(Index i) const {
    return of_lanes(i, [&](Index query) { return head.rule.begin(query); });
  }
  Vector<T> limits(Index i) const {
    const KeyRule& rule = head.rule;
    if (rule.own || rule.window > 0) return of_lanes(i, [&](Index query) { return rule.end(query); });
    const Vector<T> keys = Vector<T>{} + static_cast<T>(rule.keys);
    if (rule.mask == Mask::full) return keys;
    const Vector<T> own = lane_numbers<T>() + static_cast<T>(rule.first + rows.first + i + 1);
    return own < keys ? own : keys;
  }
  Index last_lane(Index i) const { return (i + W < rows.count ? i + W : rows.count) - 1; }
  template <class F>
  Vector<T> of_lanes(Index i, F&& f) const {
    Vector<T> result{};
    for (Index l = 0; l < W; ++l)
      result[l] = static_cast<T>(f(rows.first + (i + l < rows.count ? i + l : rows.count - 1)));
    return result;
  }

  // s[j][i] = <k_j, q_i> for the keys of `block`; vectors that are entirely masked are skipped.
  void scores(MatrixView<const T> k, Rows block, MatrixView<const T> q_transposed, MatrixView<T> s) const {
    for (Index j = 0; j < block.count; j += attention_step) {
      const Index count = block.count - j < attention_step ? block.count - j : attention_step;
      const Index i = first_lane(block.first + j) / W * W;
      const Index end = whole_vectors<T>(end_lane(block.first + j + count - 1));
      if (i < end)
        product<T>(count, {k[block.first + j], k.stride, 1}, q_transposed.cols_at(i, end - i), s[j] + i,
                   s.stride, false);
    }
  }
  // out_i = or += sum_j p[j][i] b_j over the keys of `block` of query i
  void sum_keys(MatrixView<T> p, Rows block, MatrixView<const T> b, MatrixView<T> out,
                bool accumulate) const {
    for (Index i = 0; i < rows.count; i += attention_step) {
      const Index count = rows.count - i < attention_step ? rows.count - i : attention_step;
      const Index start = head.rule.begin(rows.first + i) - block.first, from = start > 0 ? start : 0;
      const Index limit = head.rule.end(rows.first + i + count - 1) - block.first;
      const Index depth = (limit < block.count ? limit : block.count) - from;
      if (depth > 0)
        product<T>(count, {p[from] + i, 1, p.stride}, b.rows_at({from, depth}), out[i], out.stride,
                   accumulate);
      else if (!accumulate)
        for (Index l = i; l < i + count; ++l) std::memset(out[l], 0, bytes_of<T>(out.cols));
    }
  }
  // sum_j += sum_i p[j][i] b_i over the queries of key j of `block`
  void sum_queries(MatrixView<T> p, Rows block, MatrixView<const T> b, MatrixView<T> sum) const {
    for (Index j = 0; j < block.count; j += attention_step) {
      const Index count = block.count - j < attention_step ? block.count - j : attention_step;
      const Index i = first_lane(block.first + j), end = end_lane(block.first + j + count - 1);
      if (i < end)
        product<T>(count, {p[j] + i, p.stride, 1}, b.rows_at({i, end - i}), sum[j], sum.stride, true);
    }
  }

  // words[j][i]: 32 random bits for query i and key block.first + j; block.first is even.
  void draw(Rows block, MatrixView<Word<T>> words) const {
    constexpr int D = lanes<std::uint64_t>;
    typedef Word<T> Words __attribute__((vector_size(D * sizeof(Word<T>))));
    for (Index i = 0; i < width; i += D) {
      const Index position = head.rule.origin + head.rule.first + rows.first + i;
      const Index pair = (head.rule.origin + block.first) / 2;
      Vector<std::uint64_t> counter =
          lane_numbers<std::uint64_t>() * static_cast<std::uint64_t>(head.key_stride) +
          static_cast<std::uint64_t>(position * head.key_stride + pair);
      for (Index j = 0; j < block.count && first_lane(block.first + j) < i + D; j += 2, counter += 1) {
        const Vector<std::uint64_t> bits = head.key.bits(counter);
        const Words low = __builtin_convertvector(bits & 0xffffffffu, Words);
        const Words high = __builtin_convertvector(bits >> 32, Words);
        std::memcpy(words[j] + i, &low, sizeof low);
        if (j + 1 < block.count) std::memcpy(words[j + 1] + i, &high, sizeof high);
      }
    }
  }
  Word<T> threshold() const { return static_cast<Word<T>>(head.dropout * 0x1.0p32); }
};

}  // namespace detail
}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
