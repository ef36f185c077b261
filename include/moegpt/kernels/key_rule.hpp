#pragma once
// Attention mask of one (sequence, head): which keys each query attends to, by a causal or full mask, a
// window, and data (documents, padding). The keys of a query are one run [begin, end), and neither bound
// decreases with the query. So the keys of a block of queries are one run, too, and so are the queries of a
// block of keys.
#include <moegpt/core/exec.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

enum class Mask {
  causal,  // a query at position p attends to keys 0 .. p
  full,
};

namespace kernels {

inline constexpr Index attention_block = 64;  // queries and keys of a tile

struct KeyRule {
  Mask mask = Mask::causal;
  Index first = 0;            // position of query 0 among the keys
  Index keys = 0;             // number of keys; a padded sequence has fewer than rows
  Index window = 0;           // a query at p attends to keys j with |p - j| < window; 0: no window
  const Rows* own = nullptr;  // [queries] allowed keys of each query, such as its document; null: all

  // Query i attends to keys begin(i) .. end(i) - 1, to none if end(i) <= begin(i).
  Index begin(Index i) const {
    const Index by_window = window > 0 && first + i >= window ? first + i + 1 - window : 0;
    return own && own[i].first > by_window ? own[i].first : by_window;
  }
  Index end(Index i) const {
    const Index reach = mask == Mask::causal ? first + i + 1 : window > 0 ? first + i + window : keys;
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
    const Index ahead = mask == Mask::causal ? 1 : window;
    return ahead > 0 && j - first + 1 > ahead ? j - first + 1 - ahead : 0;
  }
  Index end_query(Index j, Index queries) const {
    const Index last = j - first + window;
    return window > 0 && last < queries ? (last > 0 ? last : 0) : queries;
  }
};

}  // namespace kernels
}  // namespace MOEGPT_BUILD
}  // namespace moegpt
