#include <moegpt/kernels/query_block.hpp>

#include "support/catch.hpp"
#include "support/key_rules.hpp"

using namespace moegpt;

TEMPLATE_TEST_CASE("the keys of each, any and all lanes of a block of queries follow the key rule", "", float,
                   double) {
  using T = TestType;
  constexpr Index W = lanes<T>;
  for_each_key_rule([](const kernels::KeyRule& rule) {
    const kernels::AttentionHead<T> head{.scale = 1, .rule = rule};
    for (const Rows rows : {Rows{0, 64}, Rows{64, 6}, Rows{3, 1}}) {
      const kernels::detail::QueryBlock<T> queries{head, rows};
      CAPTURE(rule.mask, rule.first, rule.keys, rule.local, rule.origin, rule.window, rule.own != nullptr,
              rows.first, rows.count);
      int wrong = 0;
      for (Index i = 0; i < rows.count; i += W) {
        const Vector<T> starts = queries.starts(i), limits = queries.limits(i);
        for (Index l = 0; l < W && i + l < rows.count; ++l)
          for (Index j = 0; j < rule.keys; ++j) {
            const bool seen = sees(rule, rows.first + i + l, j);
            wrong += (static_cast<T>(j) >= starts[l] && static_cast<T>(j) < limits[l]) != seen;
            wrong += seen && (j < queries.any_begin(i) || j >= queries.any_end(i));
            wrong += !seen && j >= queries.all_begin(i) && j < queries.all_end(i);
          }
      }
      for (Index j = 0; j < rule.keys; ++j)
        for (Index i = 0; i < rows.count; ++i)
          wrong += (queries.first_lane(j) <= i && i < queries.end_lane(j)) != sees(rule, rows.first + i, j);
      CHECK(wrong == 0);
    }
  });
}
