#pragma once
// Rules of every kind for tests of attention: masks, windows and documents, padded and continued from a first
// position.
#include <moegpt/kernels/key_rule.hpp>

#include <cstdlib>
#include <vector>

inline constexpr moegpt::Index rule_queries = 70;

// The keys of each query's document; documents of these lengths begin at key 0, and query 0 has position
// `first`.
inline std::vector<moegpt::Rows> documents_of(const std::vector<moegpt::Index>& lengths, moegpt::Index first,
                                              moegpt::Index queries) {
  std::vector<moegpt::Rows> own;
  moegpt::Index begin = 0;
  for (const moegpt::Index length : lengths) {
    for (moegpt::Index p = begin; p < begin + length; ++p)
      if (p >= first && p < first + queries) own.push_back({begin, length});
    begin += length;
  }
  return own;
}

// The definition, query by key.
inline bool sees(const moegpt::kernels::KeyRule& rule, moegpt::Index i, moegpt::Index j) {
  const moegpt::Index p = rule.first + i;
  return j < rule.keys && (rule.mask == moegpt::Mask::full || j <= p) &&
         (rule.window == 0 || std::abs(p - j) < rule.window) &&
         (!rule.own || (j >= rule.own[i].first && j < rule.own[i].first + rule.own[i].count));
}

template <class F>
void for_each_key_rule(F&& f) {
  for (const moegpt::Mask mask : {moegpt::Mask::causal, moegpt::Mask::full})
    for (const moegpt::Index first : {0, 5})
      for (const moegpt::Index keys : {0, 3, 40, 75})
        for (const moegpt::Index window : {0, 1, 7, 50})
          for (const bool cut : {false, true}) {
            const auto own = documents_of({9, 1, 30, 2, 40}, first, rule_queries);
            f(moegpt::kernels::KeyRule{.mask = mask,
                                       .first = first,
                                       .keys = keys,
                                       .window = window,
                                       .own = cut ? own.data() : nullptr});
          }
}
