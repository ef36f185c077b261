#include <moegpt/kernels/transpose.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

TEMPLATE_TEST_CASE(
    "transpose exchanges rows and columns for any shape, gathered or not, and writes nothing else", "", float,
    double) {
  using T = TestType;
  for (const Index rows : {1, 7, 16, 35})
    for (const Index cols : {1, 8, 17, 48}) {
      const auto from = random_numbers<T>(50 * (cols + 3), 1);
      for (const bool gathered : {false, true}) {
        std::vector<Index> number;
        for (Index i = 0; i < rows; ++i) number.push_back(gathered ? (i * 13 + 5) % 50 : i);
        std::vector<T> to(static_cast<std::size_t>(cols * (rows + 2)), T(7));
        kernels::transpose<T>({from.data(), rows, cols, cols + 3}, {to.data(), cols, rows, rows + 2},
                              gathered ? number.data() : nullptr);
        bool equal = true;
        for (Index j = 0; j < cols; ++j)
          for (Index i = 0; i < rows + 2; ++i)
            equal =
                equal && to[static_cast<std::size_t>(j * (rows + 2) + i)] ==
                             (i < rows ? from[number[static_cast<std::size_t>(i)] * (cols + 3) + j] : T(7));
        CHECK(equal);
      }
    }
}
