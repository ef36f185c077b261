#pragma once
// Rules of every kind for tests of attention: masks, windows, blocks and documents, padded and continued from
// a first position.
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

// The definitions, query by key: of `local`, and of a rule.
inline bool is_near(moegpt::Local local, moegpt::Index size, moegpt::Index p, moegpt::Index j) {
  const moegpt::Index blocks = p / size - j / size;
  if (local == moegpt::Local::window) return std::abs(p - j) < size;
  return blocks == 0 || (local == moegpt::Local::two_blocks && blocks == 1);
}
inline bool sees(const moegpt::kernels::KeyRule& rule, moegpt::Index i, moegpt::Index j) {
  const moegpt::Index p = rule.first + i;
  return j < rule.keys && (rule.mask == moegpt::Mask::full || j <= p) &&
         (rule.window == 0 || is_near(rule.local, rule.window, rule.origin + p, rule.origin + j)) &&
         (!rule.own || (j >= rule.own[i].first && j < rule.own[i].first + rule.own[i].count));
}

struct LocalKeys {
  moegpt::Local local = moegpt::Local::window;
  moegpt::Index size = 0, origin = 0;
};

template <class F>
void for_each_key_rule(F&& f) {
  using enum moegpt::Local;
  const LocalKeys near[] = {{},         {window, 1}, {window, 7},      {window, 50},    {window, 7, 4},
                            {block, 1}, {block, 7},  {two_blocks, 20}, {block, 50, 32}, {two_blocks, 9, 4}};
  for (const moegpt::Mask mask : {moegpt::Mask::causal, moegpt::Mask::full})
    for (const moegpt::Index first : {0, 5})
      for (const moegpt::Index keys : {0, 3, 40, 75})
        for (const LocalKeys& n : near)
          for (const bool cut : {false, true}) {
            const auto own = documents_of({9, 1, 30, 2, 40}, first, rule_queries);
            f(moegpt::kernels::KeyRule{.mask = mask,
                                       .first = first,
                                       .keys = keys,
                                       .window = n.size,
                                       .own = cut ? own.data() : nullptr,
                                       .local = n.local,
                                       .origin = n.origin});
          }
}
