#include <moegpt/kernels/micro_kernel.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <cmath>

using namespace moegpt;
using kernels::Operand;

TEST_CASE("an operand finds its elements through strides, transposition, parts and gathered rows") {
  double m[12];
  for (int i = 0; i < 12; ++i) m[i] = i;
  const Operand<double> a(MatrixView<double>{m, 3, 4, 4}), t = a.transposed();
  CHECK(a.row(2)[1 * a.col_stride] == 9);
  CHECK(t.row(1)[2 * t.col_stride] == 9);
  CHECK(t.rows == 4);
  CHECK(a.rows_at({1, 2}).cols_at({2, 2}).row(1)[0] == 10);
  const Index number[2] = {2, 0};
  const Operand<double> gathered(m, 2, 4, 4, 1, number);
  CHECK(gathered.row(0)[3] == 11);
  CHECK(gathered.rows_at({1, 1}).row(0)[3] == 3);
}

TEMPLATE_TEST_CASE("a panel holds B row after row, and zeros beyond its columns", "", float, double) {
  using Tile = kernels::detail::Tile<TestType>;
  const auto b = random_numbers<TestType>(5 * Tile::NR, 1);
  for (const Index cols : {Index{1}, Index{Tile::NR - 1}, Index{Tile::NR}})
    for (const bool transposed : {false, true}) {
      const Operand<TestType> part = transposed ? Operand<TestType>(b.data(), 5, cols, 1, 5)
                                                : Operand<TestType>(b.data(), 5, cols, Tile::NR, 1);
      Buffer<TestType> panel(5 * Tile::NR);
      panel.fill(99);
      kernels::detail::pack<TestType>(part, Tile::NR, panel.data());
      for (Index k = 0; k < 5; ++k)
        for (Index j = 0; j < Tile::NR; ++j)
          CHECK(panel[k * Tile::NR + j] == (j < cols ? part.row(k)[j * part.col_stride] : TestType(0)));
    }
}

TEMPLATE_TEST_CASE("each number of rows gives one chain of multiply-adds over k for every element", "", float,
                   double) {
  using Tile = kernels::detail::Tile<TestType>;
  constexpr Index K = 7, N = Tile::NR;
  const auto a = random_numbers<TestType>(Tile::MR * K, 2), panel = random_numbers<TestType>(K * N, 3),
             start = random_numbers<TestType>(Tile::MR * N, 4);
  for (Index rows = 1; rows <= Tile::MR; ++rows) {
    Buffer<TestType> c(Tile::MR * N);
    c.fill(99);
    kernels::detail::micro_kernel_of<TestType>(rows, Operand<TestType>(a.data(), rows, K, K, 1), 0,
                                               panel.data(), start.data(), N, c.data(), N);
    for (Index i = 0; i < Tile::MR; ++i)
      for (Index j = 0; j < N; ++j) {
        TestType sum = start[i * N + j];
        for (Index k = 0; k < K; ++k) sum += a[i * K + k] * panel[k * N + j];
        if (i < rows)
          CHECK(c[i * N + j] == Approx(sum).epsilon(1e-5).margin(1e-5));
        else
          CHECK(c[i * N + j] == 99);  // rows beyond are unchanged
      }
  }
}
