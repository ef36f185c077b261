#include <moegpt/kernels/query_block.hpp>

#include "support/catch.hpp"

using namespace moegpt;

namespace {

// Heads of each mask, whole, padded and continued from a first position.
template <class T, class F>
void for_each_head(F&& f) {
  for (const Mask mask : {Mask::causal, Mask::full})
    for (const Index first : {0, 5})
      for (const Index keys : {0, 3, 40, 75})
        f(kernels::AttentionHead<T>{.scale = 1, .mask = mask, .first = first, .keys = keys});
}

}  // namespace

TEST_CASE("a query sees a key exactly if the key is seen by the query") {
  for_each_head<float>([](const kernels::AttentionHead<float>& head) {
    for (Index i = 0; i < 70; ++i)
      for (Index j = 0; j < head.keys; ++j) {
        CAPTURE(head.mask, head.first, head.keys, i, j);
        const bool sees = head.mask == Mask::full || j <= head.first + i;
        CHECK((j < head.visible(i)) == sees);
        CHECK((i >= head.first_query(j)) == sees);
      }
  });
}

TEMPLATE_TEST_CASE("the lanes of a block of queries know how many keys each of them sees", "", float, double) {
  using T = TestType;
  constexpr Index W = lanes<T>;
  for_each_head<T>([](const kernels::AttentionHead<T>& head) {
    for (const Rows rows : {Rows{0, 64}, Rows{64, 6}, Rows{3, 1}}) {
      const kernels::detail::QueryBlock<T> queries{head, rows};
      CAPTURE(head.mask, head.first, head.keys, rows.first, rows.count);
      for (Index i = 0; i < rows.count; i += W) {
        const Vector<T> limits = queries.limits(i);
        Index fewest = head.keys, most = 0;
        for (Index l = 0; l < W && i + l < rows.count; ++l) {
          const Index seen = head.visible(rows.first + i + l);
          CHECK(static_cast<Index>(limits[l]) == seen);
          fewest = std::min(fewest, seen), most = std::max(most, seen);
        }
        CHECK(queries.seen_by_all(i) == fewest);
        CHECK(queries.seen_by_any(i) == most);
      }
      for (Index j = 0; j < queries.seen; ++j) {
        const Index i = queries.first_lane(j);
        CHECK(head.visible(rows.first + i) > j);
        CHECK((i == 0 || head.visible(rows.first + i - 1) <= j));
      }
    }
  });
}
