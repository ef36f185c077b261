// Products of moegpt with this system's BLAS against Eigen's: every orientation and start, gathered rows,
// below and above the size from which BLAS is used.
#include <moegpt/kernels/gemm.hpp>

#include <cstdio>
#include <vector>

using namespace moegpt;

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

static int faults = 0;

template <class T>
void expect_close(const char* what, Index rows, int orientation, const Matrix<T>& found,
                  const Matrix<T>& expected) {
  const T worst = (found - expected).cwiseAbs().maxCoeff();      // of sums of 601 products below 1
  if (worst <= 601 * std::numeric_limits<T>::epsilon()) return;  // false for NaN, too
  std::printf("%s, %d rows, orientation %d, %d bytes: off by %g\n", what, static_cast<int>(rows), orientation,
              static_cast<int>(sizeof(T)), static_cast<double>(worst));
  ++faults;
}

template <class T>
void compare(Index M) {
  const Index N = 704, K = 601;
  const Matrix<T> a = Matrix<T>::Random(M, K), b = Matrix<T>::Random(K, N), c0 = Matrix<T>::Random(M, N);
  const Matrix<T> at = a.transpose(), bt = b.transpose(), bias = Matrix<T>::Random(1, N), ab = a * b;
  const kernels::Operand<T> lefts[] = {{a.data(), M, K, K, 1}, {at.data(), M, K, 1, M}};
  const kernels::Operand<T> rights[] = {{b.data(), K, N, N, 1}, {bt.data(), K, N, 1, K}};
  Matrix<T> c(M, N);
  const MatrixView<T> out{c.data(), M, N, N};
  for (int orientation = 0; orientation < 4; ++orientation) {
    const auto &left = lefts[orientation % 2], &right = rights[orientation / 2];
    c.setConstant(std::numeric_limits<T>::quiet_NaN());  // must not be read
    kernels::gemm<T>(left, right, out);
    expect_close<T>("from zero", M, orientation, c, ab);
    c.setConstant(std::numeric_limits<T>::quiet_NaN());
    kernels::gemm<T>(left, right, out, {.bias = bias.data()});
    expect_close<T>("from a bias", M, orientation, c, ab + bias.replicate(M, 1));
    c = c0;
    kernels::gemm<T>(Exec{2}, left, right, out, {.accumulate = true});
    expect_close<T>("from C", M, orientation, c, ab + c0);
  }
  std::vector<Index> number;  // of rows, last first
  for (Index i = M; i-- > 0;) number.push_back(i);
  kernels::gemm<T>(kernels::Operand<T>(a.data(), M, K, K, 1, number.data()), rights[0], out);
  expect_close<T>("gathered rows", M, 0, c, ab.colwise().reverse());
}

int main() {
  for (const Index M : {30, 640}) {
    compare<float>(M);
    compare<double>(M);
  }
  constexpr BuildInfo build = build_info();
  std::printf("moegpt %s, %s, %s OpenMP, %s BLAS\n", build.version, build.simd,
              build.openmp ? "with" : "without", build.blas ? "with" : "without");
  return faults;
}
