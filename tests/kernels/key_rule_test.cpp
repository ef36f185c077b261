#include <moegpt/kernels/key_rule.hpp>

#include "support/catch.hpp"
#include "support/key_rules.hpp"

using namespace moegpt;

TEST_CASE("a query's keys by mask, window, document and sequence are one run, whose bounds do not decrease") {
  for_each_key_rule([](const kernels::KeyRule& rule) {
    CAPTURE(rule.mask, rule.first, rule.keys, rule.local, rule.origin, rule.window, rule.own != nullptr);
    int wrong = 0;
    for (Index i = 0; i < rule_queries; ++i) {
      for (Index j = 0; j < rule.keys; ++j)
        wrong += (rule.begin(i) <= j && j < rule.end(i)) != sees(rule, i, j);
      wrong += i > 0 && (rule.begin(i) < rule.begin(i - 1) || rule.end(i) < rule.end(i - 1));
    }
    CHECK(wrong == 0);
  });
}

TEST_CASE("the queries of a key by mask and window are a run, too") {
  for_each_key_rule([](const kernels::KeyRule& rule) {
    if (rule.own) return;
    CAPTURE(rule.mask, rule.first, rule.keys, rule.window);
    int wrong = 0;
    for (const Index queries : {Index{1}, Index{40}, rule_queries})
      for (Index j = 0; j < rule.keys; ++j)
        for (Index i = 0; i < queries; ++i)
          wrong += (rule.first_query(j) <= i && i < rule.end_query(j, queries)) != sees(rule, i, j);
    CHECK(wrong == 0);
  });
}

TEST_CASE(
    "the run of a block of queries begins at a tile, contains all their keys, and ends with the last one") {
  for_each_key_rule([](const kernels::KeyRule& rule) {
    CAPTURE(rule.mask, rule.first, rule.keys, rule.local, rule.origin, rule.window, rule.own != nullptr);
    for (const Rows rows : {Rows{0, 64}, Rows{64, 6}, Rows{3, 1}}) {
      const Rows run = rule.run(rows);
      Index first = rule.keys, end = 0;
      for (Index i = rows.first; i < rows.first + rows.count; ++i)
        for (Index j = 0; j < rule.keys; ++j)
          if (sees(rule, i, j)) first = std::min(first, j), end = std::max(end, j + 1);
      CHECK(run.count >= 0);
      if (first < end) {
        CHECK(run.first == first / kernels::attention_block * kernels::attention_block);
        CHECK(run.first + run.count == end);
      }
    }
  });
}
