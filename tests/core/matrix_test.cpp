#include <moegpt/core/matrix.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

#include <cstdint>
#include <limits>

using namespace moegpt;

TEST_CASE("a new weight is zero, row-major, 64-byte aligned and of its static shape") {
  Weight<float, 3, 2> w;
  CHECK(w.shape == std::array<int, 2>{3, 2});
  CHECK(w.size() == 6);
  CHECK_FALSE(w.empty());
  CHECK_FALSE(w.touched);
  CHECK(reinterpret_cast<std::uintptr_t>(w.data()) % 64 == 0);
  for (const float x : w) CHECK(x == 0);
  for (Index i = 0; i < 6; ++i) w[i] = static_cast<float>(i);
  CHECK(w.eigen()(2, 1) == 5);  // [out, in]: row 2 is numbers 4 and 5
  CHECK(w.eigen()(1, 0) == 2);
  const MatrixView<const float> view = w;
  CHECK(view[2][1] == 5);
  w.eigen()(0, 1) = 9;
  CHECK(w[1] == 9);
}

TEST_CASE("a vector weight is one row, and higher shapes keep their first extent as rows") {
  Weight<double, 5> v;
  CHECK(v.eigen().rows() == 1);
  CHECK(v.eigen().cols() == 5);
  Weight<double, 2, 3, 4> t;
  CHECK(t.rows == 2);
  CHECK(t.cols == 12);
}

TEST_CASE("a weight of extent zero holds no memory, also after allocate") {
  Weight<float, 0> none;
  CHECK(none.empty());
  CHECK(none.data() == nullptr);
  none.allocate();
  CHECK(none.empty());
  CHECK(none.eigen().size() == 0);
}

TEST_CASE(
    "a weight of extent zero has no size, whichever extent is zero, and the interface of other weights") {
  STATIC_REQUIRE(std::is_empty_v<Weight<float, 0>>);
  STATIC_REQUIRE(std::is_empty_v<Weight<double, 3, 0>>);
  struct WithoutBias {
    Weight<float, 3, 2> weight;
    [[no_unique_address]] Weight<float, 0> bias;
  };
  STATIC_REQUIRE(sizeof(WithoutBias) == sizeof(Weight<float, 3, 2>));
  Weight<float, 0, 4> none;
  const Weight<float, 0, 4> constant = none;
  CHECK(none.shape == std::array<int, 2>{0, 4});
  CHECK(none.rows == 0);
  CHECK_FALSE(none.touched);
  none.release();
  CHECK(constant.size() == 0);
  CHECK(constant.data() == nullptr);
  for ([[maybe_unused]] const float x : constant) FAIL("there is nothing to see");
  const MatrixView<float> view = none;
  const MatrixView<const float> constant_view = constant;
  CHECK(view.empty());
  CHECK(view.rows == 0);
  CHECK(constant_view.empty());
  CHECK(constant.eigen().size() == 0);
}

TEST_CASE("a released weight is empty, and allocated again it is zero") {
  Weight<float, 2, 2> w;
  w[3] = 7;
  w.release();
  CHECK(w.empty());
  CHECK(w.data() == nullptr);
  CHECK(w.eigen().size() == 0);
  w.allocate();
  REQUIRE(w.size() == 4);
  for (const float x : w) CHECK(x == 0);
  w[0] = 3;
  w.allocate();  // no change: it is not empty
  CHECK(w[0] == 3);
}

TEST_CASE("a weight emptied by assignment is zero when it is allocated again") {
  Weight<float, 2> full, nothing;
  full[1] = 7;
  nothing.release();
  full = nothing;
  CHECK(full.empty());
  full.allocate();
  REQUIRE(full.size() == 2);
  CHECK(full[1] == 0);
}

TEST_CASE("copies of a weight are deep, moves take the memory") {
  Weight<float, 2> a;
  a[0] = 1;
  Weight<float, 2> b = a;
  b[0] = 2;
  CHECK(a[0] == 1);
  b = a;
  CHECK(b[0] == 1);
  CHECK(b.data() != a.data());
  const float* memory = a.data();
  const Weight<float, 2> c = std::move(a);
  CHECK(c.data() == memory);
  Weight<float, 2>& self = b;
  b = self;
  CHECK(b[0] == 1);
}

TEST_CASE("tokens keep their memory over any sequence of smaller counts") {
  Tokens<6, float> x(7);
  const float* memory = x[0];
  for (const Index count : {3, 0, 7, 1, 7}) {
    x.resize(count);
    CHECK(x.count() == count);
    CHECK(x.view().data == memory);
  }
  x.resize(8);
  CHECK(x.count() == 8);
}

TEST_CASE("tokens are D x count to Eigen, one column per token, on the same memory") {
  Tokens<3, double> x = random_tokens<3, double>(5, 1);
  CHECK(x.eigen().rows() == 3);
  CHECK(x.eigen().cols() == 5);
  CHECK(x.eigen()(2, 4) == x[4][2]);
  x.eigen().col(1).setConstant(8);
  CHECK(x[1][0] == 8);
  const TokensView<3, const double> part = std::as_const(x).rows({1, 2});
  CHECK(part.count == 2);
  CHECK(part[0] == x[1]);
  CHECK(part.eigen()(0, 0) == 8);
  const MatrixView<double> matrix = x;
  CHECK(matrix.rows == 5);
  CHECK(matrix[4] + 2 == x[4] + 2);
}

TEST_CASE("an empty output stays empty under rows()") {
  const Out<4, float> unwanted;
  CHECK(unwanted.empty());
  CHECK(unwanted.rows({2, 3}).empty());
  CHECK_FALSE(Tokens<4, float>(1).view().empty());
}

TEST_CASE("a matrix view of some rows and some columns addresses the same elements") {
  Buffer<int> numbers(12);
  for (Index i = 0; i < 12; ++i) numbers[i] = static_cast<int>(i);
  const MatrixView<int> all{numbers.data(), 3, 4, 4};
  const MatrixView<int> part = all.rows_at({1, 2}).cols_at(2, 2);
  CHECK(part.rows == 2);
  CHECK(part.cols == 2);
  CHECK(part[1][0] == 10);
}

TEST_CASE("as_tokens views an Eigen matrix without a copy, in either storage order") {
  Eigen::MatrixXf columns = Eigen::MatrixXf::Random(6, 7);  // D x tokens
  const Out<6, float> a = as_tokens<6>(columns);
  CHECK(a.data == columns.data());
  CHECK(a.count == 7);
  CHECK(a[3][2] == columns(2, 3));
  Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows(7, 6);  // tokens x D
  rows.setRandom();
  const auto b = as_tokens<6>(rows);
  CHECK(b.data == rows.data());
  CHECK(b.count == 7);
  b[3][2] = 5;
  CHECK(rows(3, 2) == 5);
  const Eigen::MatrixXf constant = columns;
  const In<6, float> c = as_tokens<6>(constant);
  CHECK(c.data == constant.data());
  Eigen::Matrix<float, 6, 4> fixed;
  CHECK(as_tokens<6>(fixed).count == 4);
}

TEST_CASE("a matrix of another width is rejected with both widths and the storage order") {
  Eigen::MatrixXf columns(5, 7);
  const std::string said = refusal([&] { as_tokens<6>(columns); });
  CHECK(
      said ==
      "moegpt: a token of this matrix has 5 features, expected 6 rows (column-major: one column per token)");
  const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows(7, 5);
  const std::string of_rows = refusal([&] { as_tokens<6>(rows); });
  CHECK(of_rows ==
        "moegpt: a token of this matrix has 5 features, expected 6 columns (row-major: one row per token)");
}

TEST_CASE("tokens of a negative count, or of more elements than there are addresses, are rejected") {
  constexpr Index most = std::numeric_limits<Index>::max();
  Tokens<8, float> tokens;
  for (const Index count :
       {Index{-1}, most / 8 + 1, most, Index{1} << 61, -(Index{1} << 61)}) {  // times 8 wraps
    CAPTURE(count);
    CHECK_FALSE(refusal([&] { tokens.resize(count); }).empty());
  }
}
