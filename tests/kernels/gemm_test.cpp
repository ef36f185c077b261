#include <moegpt/kernels/gemm.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/small_stack.hpp"

using namespace moegpt;
using kernels::Operand;

namespace {

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T>
Matrix<T> random_matrix(Index rows, Index cols, std::uint64_t seed) {
  Matrix<T> m(rows, cols);
  Rng rng(seed);
  for (Index i = 0; i < m.size(); ++i) m.data()[i] = static_cast<T>(rng.normal());
  return m;
}
template <class T>
MatrixView<T> view(Matrix<T>& m) {
  return {m.data(), m.rows(), m.cols(), m.cols()};
}
template <class T>
MatrixView<const T> view(const Matrix<T>& m) {
  return {m.data(), m.rows(), m.cols(), m.cols()};
}
// m as an operand, from its own memory or from that of its transpose.
template <class T>
Operand<T> as_operand(const Matrix<T>& m, const Matrix<T>& m_transposed, bool transpose) {
  if (transpose)
    return kernels::transposed<T>(MatrixView<const T>{m_transposed.data(), m.cols(), m.rows(), m.rows()});
  return MatrixView<const T>{m.data(), m.rows(), m.cols(), m.cols()};
}

// |C - AB| <= (K + 2) epsilon (|A| |B| + |C0|) for any order of a sum of K products and the initial C0.
template <class T>
bool close(const Matrix<T>& c, const Matrix<T>& a, const Matrix<T>& b, const Matrix<T>& start) {
  const Matrix<double> A = a.template cast<double>(), B = b.template cast<double>(),
                       C = start.template cast<double>();
  const Matrix<double> exact = C + A.lazyProduct(B);
  const Matrix<double> size = C.cwiseAbs() + A.cwiseAbs().lazyProduct(B.cwiseAbs());
  const double epsilon = std::numeric_limits<T>::epsilon() * static_cast<double>(a.cols() + 2);
  for (Index i = 0; i < c.size(); ++i)
    if (!(std::abs(static_cast<double>(c.data()[i]) - exact.data()[i]) <= epsilon * size.data()[i]))
      return false;
  return true;
}

}  // namespace

TEMPLATE_TEST_CASE("products agree with Eigen's for any shape, orientation and initial C", "", float,
                   double) {
  using T = TestType;
  constexpr Index NR = kernels::detail::Tile<T>::NR, deep = kernels::detail::Tile<T>::KC + 5;
  const Index shapes[][3] = {{0, 3, 2},
                             {3, 0, 2},
                             {3, 2, 0},
                             {1, 1, 1},
                             {1, 7, 5},
                             {7, 1, 5},
                             {5, 3, 1},
                             {6, 8, 8},
                             {7, 5, 9},
                             {13, 33, 17},
                             {12, 64, 16},
                             {29, 2 * NR + 1, 6},
                             {11, 4 * NR + 3, 31},
                             {5, 3, deep},
                             {2, NR, 2 * deep},
                             {8, 99, 7},
                             {17, 130, 2 * deep},
                             {40, 64, 5},
                             {49, 100, deep},
                             {300, 270, 500}};  // M, N, K
  for (const auto& [M, N, K] : shapes) {
    const Matrix<T> a = random_matrix<T>(M, K, 1), b = random_matrix<T>(K, N, 2),
                    c0 = random_matrix<T>(M, N, 3);
    const Matrix<T> at = a.transpose(), bt = b.transpose(), bias = random_matrix<T>(1, N, 4);
    const Matrix<T> zero = Matrix<T>::Zero(M, N), biases = bias.replicate(M, 1);
    for (int orientation = 0; orientation < 4; ++orientation) {
      const Operand<T> left = as_operand(a, at, orientation & 1), right = as_operand(b, bt, orientation & 2);
      CAPTURE(M, N, K, orientation);
      Matrix<T> c = Matrix<T>::Constant(M, N, std::numeric_limits<T>::quiet_NaN());  // must not be read
      kernels::gemm<T>(left, right, view(c));
      CHECK(close(c, a, b, zero));
      c.setConstant(std::numeric_limits<T>::quiet_NaN());
      kernels::gemm<T>(Exec{2}, left, right, view(c), {.bias = bias.data()});
      CHECK(close(c, a, b, biases));
      c = c0;
      kernels::gemm<T>(Exec{2}, left, right, view(c), {.accumulate = true});
      CHECK(close(c, a, b, c0));
    }
  }
}

TEMPLATE_TEST_CASE("every element is one chain of multiply-adds over k = 0, 1, 2, ..., beyond a panel too",
                   "", float, double) {
  using T = TestType;
  const Index M = 5, N = 19, K = kernels::detail::Tile<T>::KC + 9;
  const Matrix<T> a = random_matrix<T>(M, K, 5), b = random_matrix<T>(K, N, 6),
                  bias = random_matrix<T>(1, N, 7);
  Matrix<T> c(M, N);
  kernels::gemm<T>(MatrixView<const T>{a.data(), M, K, K}, MatrixView<const T>{b.data(), K, N, N}, view(c),
                   {.bias = bias.data()});
  Index fused = 0, separate = 0;
  for (Index i = 0; i < M; ++i)
    for (Index j = 0; j < N; ++j) {
      T one = bias(0, j);
      volatile T two = bias(0, j);  // volatile: the compiler must not fuse it
      for (Index k = 0; k < K; ++k) {
        one = std::fma(a(i, k), b(k, j), one);
        volatile T product = a(i, k) * b(k, j);
        two = two + product;
      }
      fused += c(i, j) == one;
      separate += c(i, j) == two;
    }
  CHECK((fused == M * N || separate == M * N));  // depends on the target, but is the same for every element
}

TEMPLATE_TEST_CASE("a row's and a column's bits are the same alone and among others (invariant 6)", "", float,
                   double) {
  using T = TestType;
  const Index M = 27, N = 2 * kernels::detail::Tile<T>::NR + 5, K = 37;
  const Matrix<T> a = random_matrix<T>(M, K, 8), b = random_matrix<T>(K, N, 9),
                  bias = random_matrix<T>(1, N, 10);
  const Matrix<T> at = a.transpose(), bt = b.transpose(), c0 = random_matrix<T>(M, N, 11);
  for (int orientation = 0; orientation < 4; ++orientation)
    for (const bool accumulate : {false, true}) {
      const Operand<T> left = as_operand(a, at, orientation & 1), right = as_operand(b, bt, orientation & 2);
      Matrix<T> all = c0, part = c0;
      kernels::gemm<T>(left, right, view(all), {accumulate, bias.data()});
      for (Index i = 0; i < M; ++i)
        kernels::gemm<T>(left.rows_at({i, 1}), right, view(part).rows_at({i, 1}), {accumulate, bias.data()});
      CHECK(same_bits(all.data(), part.data(), all.size()));
      part = c0;
      for (Index j = 0; j < N; ++j)
        kernels::gemm<T>(left, right.cols_at({j, 1}), view(part).cols_at(j, 1),
                         {accumulate, bias.data() + j});
      CHECK(same_bits(all.data(), part.data(), all.size()));
    }
}

TEMPLATE_TEST_CASE("gathered rows of either operand have the bits of their copies", "", float, double) {
  using T = TestType;
  const Index K = 70, all = 90;
  for (const Index M : {1, 9, 30, 60})
    for (const Index N : {3, 80}) {
      CAPTURE(M, N);
      const Matrix<T> a = random_matrix<T>(all, K, 19), b = random_matrix<T>(all, N, 20),
                      b0 = random_matrix<T>(K, N, 21);
      std::vector<Index> number;
      for (Index i = 0; i < all; ++i) number.push_back(i * 37 % all);
      Matrix<T> a_copy(M, K), b_copy(K, N), c(M, N), c_copy(M, N);
      for (Index i = 0; i < M; ++i) a_copy.row(i) = a.row(number[static_cast<std::size_t>(i)]);
      for (Index k = 0; k < K; ++k) b_copy.row(k) = b.row(number[static_cast<std::size_t>(k)]);
      const MatrixView<const T> b0v{b0.data(), K, N, N}, copied{a_copy.data(), M, K, K};
      kernels::gemm<T>(Operand<T>(a.data(), M, K, K, 1, number.data()), b0v, view(c));
      kernels::gemm<T>(copied, b0v, view(c_copy));
      CHECK(same_bits(c.data(), c_copy.data(), c.size()));
      kernels::gemm<T>(copied, Operand<T>(b.data(), K, N, N, 1, number.data()), view(c));
      kernels::gemm<T>(copied, MatrixView<const T>{b_copy.data(), K, N, N}, view(c_copy));
      CHECK(same_bits(c.data(), c_copy.data(), c.size()));
    }
}

TEST_CASE(
    "every element of a product is finished once, with its final value, in columns that begin at whole "
    "vectors") {
  const Index N = 150, K = 300;
  for (const Index M : {3, 30, 100, 1000}) {
    const Matrix<float> a = random_matrix<float>(M, K, 22), b = random_matrix<float>(K, N, 23);
    Matrix<float> c(M, N), seen = Matrix<float>::Zero(M, N), expected(M, N);
    bool whole = true;
    const auto finish = [&](Rows rows, Rows cols) {
      whole = whole && cols.first % lanes<float> == 0;
      seen.block(rows.first, cols.first, rows.count, cols.count) +=
          c.block(rows.first, cols.first, rows.count, cols.count);
    };
    kernels::gemm<float>(view(a), view(b), view(c), {}, kernels::Epilogue(finish));
    kernels::gemm<float>(view(a), view(b), view(expected));
    CHECK(whole);
    CHECK(seen == expected);
  }
}

TEST_CASE("rows of a large product, whose operands are both packed, have the bits that they have alone") {
  const Index M = 600, N = 330, K = 700;
  const Matrix<float> a = random_matrix<float>(M, K, 24), b = random_matrix<float>(K, N, 25),
                      at = a.transpose();
  for (const bool transposed : {false, true}) {
    const Operand<float> left = as_operand(a, at, transposed);
    Matrix<float> all(M, N), alone(1, N);
    kernels::gemm<float>(left, view(b), view(all));
    for (const Index i : {0, 1, 299, 300, 511, 512, 599}) {
      kernels::gemm<float>(left.rows_at({i, 1}), view(b), view(alone));
      CHECK(same_bits(all.row(i).data(), alone.data(), N));
    }
  }
}

TEST_CASE("the number of threads does not change a bit of a product (invariant 5)") {
  const Index M = 500, N = 150, K = 33;
  const Matrix<float> a = random_matrix<float>(M, K, 12), b = random_matrix<float>(K, N, 13);
  Matrix<float> one(M, N), many(M, N);
  const MatrixView<const float> left{a.data(), M, K, K}, right{b.data(), K, N, N};
  kernels::gemm<float>(left, right, view(one));
  for (const int threads : {1, 2, 3, 8}) {
    many.setZero();
    kernels::gemm<float>(Exec{threads}, left, right, view(many));
    CHECK(same_bits(one.data(), many.data(), one.size()));
  }
}

TEST_CASE("a product into a part of a matrix leaves the rest alone") {
  Matrix<float> c = Matrix<float>::Constant(9, 40, 7);
  const Matrix<float> a = Matrix<float>::Ones(4, 3), b = Matrix<float>::Ones(3, 19);
  kernels::gemm<float>(MatrixView<const float>{a.data(), 4, 3, 3},
                       MatrixView<const float>{b.data(), 3, 19, 19}, view(c).rows_at({2, 4}).cols_at(5, 19));
  CHECK(c.block(2, 5, 4, 19).isConstant(3));
  c.block(2, 5, 4, 19).setConstant(7);
  CHECK(c.isConstant(7));
}

TEST_CASE("affine is x W^T + b, and its gradients are the transposed products, added where they are sums") {
  const Index tokens = 7, in = 5, out = 3;
  const Matrix<double> x = random_matrix<double>(tokens, in, 14), dy = random_matrix<double>(tokens, out, 15);
  Matrix<double> w = random_matrix<double>(out, in, 16), b = random_matrix<double>(1, out, 17),
                 y(tokens, out);
  const Matrix<double> wt = w.transpose(), xt = x.transpose(), dyt = dy.transpose();
  Matrix<double> dx(tokens, in), dw = random_matrix<double>(out, in, 18), db = b;
  const Matrix<double> dw0 = dw, zero = Matrix<double>::Zero(tokens, in);
  const MatrixView<const double> xv{x.data(), tokens, in, in}, dyv{dy.data(), tokens, out, out};
  kernels::affine<double>(Exec{2}, xv, view(w), b.data(), view(y));
  CHECK(close(y, x, wt, Matrix<double>(b.replicate(tokens, 1))));
  kernels::affine<double>(Exec{1}, xv, view(w), nullptr, view(y));
  CHECK(close(y, x, wt, Matrix<double>(Matrix<double>::Zero(tokens, out))));
  kernels::affine_backward<double>(Exec{2}, dyv, view(w), view(dx), false);
  CHECK(close(dx, dy, w, zero));
  const Matrix<double> once = dx;
  kernels::affine_backward<double>(Exec{1}, dyv, view(w), view(dx), true);
  CHECK(close(dx, dy, w, once));
  kernels::affine_backward_weights<double>(Exec{2}, xv, dyv, view(dw), db.data());
  CHECK(close(dw, dyt, x, dw0));
  for (Index j = 0; j < out; ++j) CHECK(db(0, j) == Approx(b(0, j) + dy.col(j).sum()).epsilon(1e-14));
  kernels::affine_backward_weights<double>(Exec{1}, xv, dyv, {}, nullptr);  // no gradient is required
}

TEMPLATE_TEST_CASE("a product that is not large needs little of the stack", "", float, double) {
  using T = TestType;
  const Matrix<T> a = random_matrix<T>(40, 50, 1), b = random_matrix<T>(50, 64, 2);
  Matrix<T> c(40, 64);
  CHECK(on_small_stack(256 << 10, [&] { kernels::gemm<T>(view(a), view(b), view(c)); }));
  CHECK(close<T>(c, a, b, Matrix<T>::Zero(40, 64)));
}
