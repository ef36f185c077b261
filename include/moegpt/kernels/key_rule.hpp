#pragma once
// Which keys the queries of one (sequence, head) see: by a mask, by a window, and by data (documents, padding).
// Each query sees one run of keys. Later queries see runs that neither begin nor end earlier, so the keys that a block
// of queries sees are one run, too, and so are the queries that see a block of keys.
#include <moegpt/core/exec.hpp>

namespace moegpt::inline MOEGPT_BUILD {

enum class Mask {
  causal,   // a query at position p sees keys 0 .. p
  full,
};

namespace kernels {

inline constexpr Index attention_block = 64;   // queries, and keys, of a tile

struct KeyRule {
  Mask mask = Mask::causal;
  Index first = 0;             // position of query 0 among the keys
  Index keys = 0;              // keys that exist: a padded sequence has fewer than its rows
  Index window = 0;            // a query at p sees keys j with |p - j| < window; 0: any
  const Rows* own = nullptr;   // [queries] keys that each query may see, such as those of its document; null: all

  // Query i sees keys begin(i) .. end(i) - 1, and none if that is no run.
  Index begin(Index i) const {
    const Index by_window = window > 0 && first + i >= window ? first + i + 1 - window : 0;
    return own && own[i].first > by_window ? own[i].first : by_window;
  }
  Index end(Index i) const {
    const Index reach = mask == Mask::causal ? first + i + 1 : window > 0 ? first + i + window : keys;
    const Index result = reach < keys ? reach : keys;
    return own && own[i].first + own[i].count < result ? own[i].first + own[i].count : result;
  }
  // The keys that some of these queries see. It begins with a tile, because random bits of dropout come in pairs.
  Rows run(Rows queries) const {
    const Index last = end(queries.first + queries.count - 1);
    const Index from = begin(queries.first) / attention_block * attention_block;
    return {from < last ? from : last, from < last ? last - from : 0};
  }
  // By mask and window, queries first_query(j) .. end_query(j) - 1 see key j, of as many as there are.
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
}  // namespace moegpt::inline MOEGPT_BUILD
