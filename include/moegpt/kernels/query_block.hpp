#pragma once
// What one (sequence, head) of attention is, and a block of its queries: which keys they see, and the products that
// leave out what is masked. The queries of a block are the lanes of its vectors.
#include <moegpt/core/random.hpp>
#include <moegpt/kernels/tile.hpp>

namespace moegpt::inline MOEGPT_BUILD {

enum class Mask {
  causal,   // a query at position p sees keys 0 .. p
  full,
};

namespace kernels {

// What one (sequence, head) needs to know besides its numbers.
template <class T>
struct AttentionHead {
  T scale;
  Mask mask;
  Index first = 0;            // position of query 0 among the keys
  Index keys = 0;             // keys that exist (a padded sequence has fewer than its rows)
  double dropout = 0;         // on probabilities; 0: none
  Key key{};                  // of the dropout mask, already particular to this sequence and head
  Index key_stride = 0;       // counter = query position * key_stride + key / 2: a draw decides two keys

  // Query i sees keys [0, visible(i)); key j is seen by queries [first_query(j), ...).
  Index visible(Index i) const { return mask == Mask::causal && first + i + 1 < keys ? first + i + 1 : keys; }
  Index first_query(Index j) const { return mask == Mask::causal && j > first ? j - first : 0; }
};

inline constexpr Index attention_block = 64;   // queries, and keys, of a tile
inline constexpr Index attention_step = tile_rows;   // rows of a product that share one causal limit

namespace detail {

// As many random bits as decide one number, in an integer of the size of T.
template <class T>
using Word = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

// Queries `rows` of a head as lanes: query rows.first + i is lane i % W of vector i / W.
template <class T>
struct QueryBlock {
  static constexpr int W = lanes<T>;
  const AttentionHead<T>& head;
  Rows rows;
  Index width = whole_vectors<T>(rows.count);               // of a row of scores
  Index seen = head.visible(rows.first + rows.count - 1);   // keys that the last query sees

  // Keys that every query, and that any query, of the vector at lane i sees.
  Index seen_by_all(Index i) const { return head.visible(rows.first + i); }
  Index seen_by_any(Index i) const { return head.visible(rows.first + (i + W < rows.count ? i + W : rows.count) - 1); }
  // The first lane that sees key j.
  Index first_lane(Index j) const {
    const Index i = head.first_query(j) - rows.first;
    return i > 0 ? i : 0;
  }
  // For each lane of the vector at i, the number of keys that it sees.
  Vector<T> limits(Index i) const {
    const Vector<T> keys = Vector<T>{} + static_cast<T>(head.keys);
    if (head.mask == Mask::full) return keys;
    const Vector<T> own = lane_numbers<T>() + static_cast<T>(head.first + rows.first + i + 1);
    return own < keys ? own : keys;
  }

  // s[j][i] = <k_j, q_i> for the keys of `block`; vectors that are masked as a whole are left out.
  void scores(MatrixView<const T> k, Rows block, MatrixView<const T> q_transposed, MatrixView<T> s) const {
    for (Index j = 0; j < block.count; j += attention_step) {
      const Index count = block.count - j < attention_step ? block.count - j : attention_step;
      const Index i = first_lane(block.first + j) / W * W;
      if (i < width)
        product<T>(count, {k[block.first + j], k.stride, 1}, q_transposed.cols_at(i, width - i), s[j] + i, s.stride,
                   false);
    }
  }
  // out_i = or += sum_j p[j][i] b_j over the keys of `block` that query i sees
  void sum_keys(MatrixView<T> p, Rows block, MatrixView<const T> b, MatrixView<T> out, bool accumulate) const {
    for (Index i = 0; i < rows.count; i += attention_step) {
      const Index count = rows.count - i < attention_step ? rows.count - i : attention_step;
      const Index limit = head.visible(rows.first + i + count - 1) - block.first;
      const Index depth = limit < block.count ? limit : block.count;
      if (depth > 0)
        product<T>(count, {p[0] + i, 1, p.stride}, b.rows_at({0, depth}), out[i], out.stride, accumulate);
    }
  }
  // sum_j += sum_i p[j][i] b_i over the queries that see key j of `block`
  void sum_queries(MatrixView<T> p, Rows block, MatrixView<const T> b, MatrixView<T> sum) const {
    for (Index j = 0; j < block.count; j += attention_step) {
      const Index count = block.count - j < attention_step ? block.count - j : attention_step;
      const Index i = first_lane(block.first + j);
      if (i < rows.count)
        product<T>(count, {p[j] + i, p.stride, 1}, b.rows_at({i, rows.count - i}), sum[j], sum.stride, true);
    }
  }

  // words[j][i]: 32 random bits for query i and key block.first + j; block.first is even.
  void draw(Rows block, MatrixView<Word<T>> words) const {
    constexpr int D = lanes<std::uint64_t>;
    typedef Word<T> Words __attribute__((vector_size(D * sizeof(Word<T>))));
    for (Index i = 0; i < width; i += D) {
      const Index position = head.first + rows.first + i;
      Vector<std::uint64_t> counter = lane_numbers<std::uint64_t>() * static_cast<std::uint64_t>(head.key_stride) +
                                      static_cast<std::uint64_t>(position * head.key_stride + block.first / 2);
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
}  // namespace moegpt::inline MOEGPT_BUILD
