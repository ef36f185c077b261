#include <moegpt/kernels/tile.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

TEMPLATE_TEST_CASE("a product of tiles sums over k in order, for every number of rows, vectors and strides",
                   "", float, double) {
  using T = TestType;
  const Index depth = 7, wide = 5 * lanes<T>;
  const auto a = random_numbers<T>(40 * 40, 1), b = random_numbers<T>(depth * wide, 2);
  for (Index rows = 1; rows <= 33; ++rows)
    for (Index cols = lanes<T>; cols <= wide; cols += lanes<T>)
      for (const auto& [row, step] : {std::pair<Index, Index>{40, 1}, {1, 40}})
        for (const bool accumulate : {false, true}) {
          Buffer<T> c(rows * wide), expected(rows * wide);
          c.fill(3);
          for (Index i = 0; i < rows; ++i)
            for (Index j = 0; j < cols; ++j) {
              double sum = accumulate ? 3 : 0;
              for (Index k = 0; k < depth; ++k)
                sum += double(a[i * row + k * step]) * double(b[k * wide + j]);
              expected[i * wide + j] = static_cast<T>(sum);
            }
          kernels::product<T>(rows, {a.data(), row, step}, {b.data(), depth, cols, wide}, c.data(), wide,
                              accumulate);
          double worst = 0;
          for (Index i = 0; i < rows; ++i)
            for (Index j = 0; j < wide; ++j)
              worst = std::max(
                  worst, std::abs(double(c[i * wide + j]) - (j < cols ? double(expected[i * wide + j]) : 3)));
          REQUIRE(worst < 40 * double(std::numeric_limits<T>::epsilon()));  // seven terms of order one
        }
}

TEMPLATE_TEST_CASE("a padded panel has the scaled elements and zeros around them, and transposes exactly", "",
                   float, double) {
  using T = TestType;
  constexpr int W = lanes<T>;
  const Index rows = 2 * W, cols = 3 * W;
  const auto x = random_numbers<T>(rows * 50, 3);
  for (const Index used : {W - 1, W, 2 * W, 2 * W + 1, 3 * W}) {
    const Index held = (used + W - 1) / W * W;  // the panel is as wide as x needs
    Buffer<T> panel(rows * cols), turned(rows * cols);
    panel.fill(9);
    const MatrixView<T> p{panel.data(), rows, held, held}, t{turned.data(), held, rows, rows};
    kernels::pad<T>({x.data(), W + 1, used, 50}, T(2), p);
    kernels::transpose<T>(p, t);
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < held; ++j) {
        REQUIRE(p[i][j] == (i <= W && j < used ? 2 * x[i * 50 + j] : 0));
        REQUIRE(t[j][i] == p[i][j]);
      }
  }
}
