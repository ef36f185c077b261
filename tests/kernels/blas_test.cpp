// A unit of its own kind in this program: built for BLAS, with an inline namespace that says so.
#ifdef MOEGPT_USE_BLAS
#define BLAS_IS_THE_SYSTEMS
#else
#define MOEGPT_USE_BLAS
#endif
#include <moegpt/kernels/gemm.hpp>

#include "support/catch.hpp"

#include <vector>

using namespace moegpt;
using kernels::Operand;

#ifndef BLAS_IS_THE_SYSTEMS
namespace {

constexpr Index M = 640, N = 704, K = 601;  // just large enough for BLAS
constexpr Index step = 37;                  // of the elements that are computed and compared
int calls = 0;

// Fortran's C = alpha op(A) op(B) + beta C on columns, for some elements. C is not read if beta is zero.
template <class T>
void reference_gemm(char op_a, char op_b, int m, int n, int k, T alpha, const T* a, int lda, const T* b,
                    int ldb, T beta, T* c, int ldc) {
  ++calls;
  REQUIRE((lda >= (op_a == 'N' ? m : k) && ldb >= (op_b == 'N' ? k : n) && ldc >= m));
  const auto at = [](const T* x, int row, int col, int ld, char op) {
    return op == 'N' ? x[row + col * ld] : x[col + row * ld];
  };
  for (int j = 0; j < n; j += step)
    for (int i = 0; i < m; i += step) {
      T sum = 0;
      for (int l = 0; l < k; ++l) sum += at(a, i, l, lda, op_a) * at(b, l, j, ldb, op_b);
      c[i + j * ldc] = alpha * sum + (beta == 0 ? 0 : beta * c[i + j * ldc]);
    }
}

}  // namespace

#define REFERENCE_GEMM(T, name)                                                                      \
  extern "C" void name(const char* op_a, const char* op_b, const int* m, const int* n, const int* k, \
                       const T* alpha, const T* a, const int* lda, const T* b, const int* ldb,       \
                       const T* beta, T* c, const int* ldc);                                         \
  extern "C" void name(const char* op_a, const char* op_b, const int* m, const int* n, const int* k, \
                       const T* alpha, const T* a, const int* lda, const T* b, const int* ldb,       \
                       const T* beta, T* c, const int* ldc) {                                        \
    reference_gemm(*op_a, *op_b, *m, *n, *k, *alpha, a, *lda, b, *ldb, *beta, c, *ldc);              \
  }
REFERENCE_GEMM(float, sgemm_)
REFERENCE_GEMM(double, dgemm_)

TEMPLATE_TEST_CASE("a large product is one call of BLAS, in any orientation and with any initial C", "",
                   float, double) {
  using T = TestType;
  // Small integers: exact in any order. Rows are longer than they are used.
  const Index wide = 720;
  std::vector<T> a(wide * wide), b(wide * wide), bias(N), c(wide * wide);
  for (Index i = 0; i < wide * wide; ++i) {
    a[static_cast<std::size_t>(i)] = static_cast<T>(i * i % 7 - 3);
    b[static_cast<std::size_t>(i)] = static_cast<T>(i * i % 11 - 5);
  }
  for (Index j = 0; j < N; ++j) bias[static_cast<std::size_t>(j)] = static_cast<T>(j % 5);
  const Operand<T> lefts[] = {{a.data(), M, K, wide, 1}, {a.data(), M, K, 1, wide}};
  const Operand<T> rights[] = {{b.data(), K, N, wide, 1}, {b.data(), K, N, 1, wide}};
  const MatrixView<T> out{c.data(), M, N, wide};
  for (const auto& left : lefts)
    for (const auto& right : rights)
      for (const kernels::InitialC<T> start :
           {kernels::InitialC<T>{}, {.bias = bias.data()}, {.accumulate = true}}) {
        std::fill(c.begin(), c.end(), start.accumulate ? T(2) : std::numeric_limits<T>::quiet_NaN());
        int finished = 0;
        const auto finish = [&](Rows rows, Rows cols) {
          finished += rows.first == 0 && rows.count == M && cols.first == 0 && cols.count == N;
        };
        calls = 0;
        kernels::gemm<T>(left, right, out, start, kernels::Epilogue(finish));
        CHECK(calls == 1);
        CHECK(finished == 1);
        bool same = true;
        for (Index i = 0; i < M; i += step)
          for (Index j = 0; j < N; j += step) {
            T expected = start.accumulate ? T(2) : start.bias ? start.bias[j] : T(0);
            for (Index k = 0; k < K; ++k)
              expected += left.row(i)[k * left.col_stride] * right.row(k)[j * right.col_stride];
            same = same && out[i][j] == expected;
          }
        CHECK(same);
      }
}

TEST_CASE("BLAS is not called for a product that is small, gathered or strided both ways") {
  std::vector<float> numbers(2 * 720 * 720), c(720 * 720);
  std::vector<Index> number(720);
  const auto left = [&](Index rows, Index stride, const Index* gathered = nullptr) {
    return Operand<float>(numbers.data(), rows, K, 720, stride, gathered);
  };
  const Operand<float> right(numbers.data(), K, N, 720, 1),
      gathered_right(numbers.data(), K, N, 720, 1, number.data());
  const Operand<float> repeated(numbers.data(), K, N, 0, 1);  // one row, K times
  const auto calls_of = [&](const Operand<float>& a, const Operand<float>& b) {
    calls = 0;
    kernels::gemm<float>(a, b, {c.data(), a.rows, N, 720});
    return calls;
  };
  CHECK(calls_of(left(M, 1), right) == 1);
  CHECK(calls_of(left(M - 10, 1), right) == 0);
  CHECK(calls_of(left(M, 1, number.data()), right) == 0);
  CHECK(calls_of(left(M, 1), gathered_right) == 0);
  CHECK(calls_of(left(M, 2), right) == 0);
  CHECK(calls_of(left(M, 1), repeated) == 0);
}
#endif

TEST_CASE("build_info states that BLAS is used") { CHECK(build_info().blas); }
