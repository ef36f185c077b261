#pragma once
// Attention mask of one (sequence, head): which keys each query attends to, by a causal or full mask, a
// window or blocks, and data (documents, padding). The keys of a query are one run [begin, end), and neither
// bound decreases with the query. So the keys of a block of queries are one run, too, and so are the queries
// of a block of keys. The keys of a stride are runs, too, among the keys of one residue
// (kernels/strided.hpp).
#include <moegpt/core/exec.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Mask {
  causal,  // a query at position p attends to keys 0 .. p
  full,
};

// The keys near a query at position p, within the mask, for a given size.
enum class Local {
  window,      // |p - j| < size
  block,       // j in the block of p; blocks begin at multiples of size
  two_blocks,  // j in the block of p or in the one before
};

namespace kernels {

inline constexpr Index attention_block = 64;  // queries and keys of a tile

struct KeyRule {
  Mask mask = Mask::causal;
  Index first = 0;            // position of query 0 among the keys
  Index keys = 0;             // number of keys; a padded sequence has fewer than rows
  Index window = 0;           // size of `local`; 0: all keys that the mask allows
  const Rows* own = nullptr;  // [queries] allowed keys of each query, such as its document; null: all
  Local local = Local::window;
  Index origin = 0;  // position of key 0, for blocks and dropout: a cache may lack the oldest keys. Even

  // Query i attends to keys begin(i) .. end(i) - 1, to none if end(i) <= begin(i).
  Index begin(Index i) const {
    const Index by_window = window > 0 ? local_begin(first + i) : 0;
    return own && own[i].first > by_window ? own[i].first : by_window;
  }
  Index end(Index i) const {
    const Index reach = mask == Mask::causal ? first + i + 1 : window > 0 ? local_end(first + i) : keys;
    const Index result = reach < keys ? reach : keys;
    return own && own[i].first + own[i].count < result ? own[i].first + own[i].count : result;
  }
  // The keys of any of these queries, from a multiple of the tile on, because dropout draws bits for pairs of
  // keys.
  Rows run(Rows queries) const {
    const Index last = end(queries.first + queries.count - 1);
    const Index from = begin(queries.first) / attention_block * attention_block;
    return {from < last ? from : last, from < last ? last - from : 0};
  }
  // By mask and window, queries first_query(j) .. end_query(j, queries) - 1 attend to key j.
  Index first_query(Index j) const {
    const Index from = mask == Mask::causal ? j : window > 0 ? local_first(j) : 0;
    return from > first ? from - first : 0;
  }
  Index end_query(Index j, Index queries) const {
    const Index last = window > 0 ? local_last(j) - first + 1 : queries;
    return last < queries ? (last > 0 ? last : 0) : queries;
  }

 private:
  // First and one past the last key near p, without the mask; first and last position near key j.
  Index local_begin(Index p) const {
    if (local == Local::window) return p >= window ? p + 1 - window : 0;
    const Index begin = block_begin(p) - (local == Local::two_blocks ? window : 0);
    return begin > 0 ? begin : 0;
  }
  Index local_end(Index p) const { return local == Local::window ? p + window : block_begin(p) + window; }
  Index local_first(Index j) const { return local == Local::window ? j + 1 - window : block_begin(j); }
  Index local_last(Index j) const {
    if (local == Local::window) return j + window - 1;
    return block_begin(j) + (local == Local::two_blocks ? 2 : 1) * window - 1;
  }
  Index block_begin(Index p) const { return (origin + p) / window * window - origin; }
};

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
