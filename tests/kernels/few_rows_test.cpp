#include <moegpt/kernels/gemm.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;
using kernels::Operand;

namespace {

template <class T>
std::vector<T> draw(Index count, std::uint64_t seed) {
  std::vector<T> x(static_cast<std::size_t>(count));
  Rng rng(seed);
  for (T& v : x) v = static_cast<T>(rng.normal());
  return x;
}

// start + sum_k x_k w_k, one multiply-add after another.
template <class T>
T chain(T start, const T* x, Index step, const T* w, Index depth) {
  Vector<T> sum = Vector<T>{} + start;
  for (Index k = 0; k < depth; ++k) sum = multiply_add(x[k * step], Vector<T>{} + w[k], sum);
  return sum[0];
}

}  // namespace

TEMPLATE_TEST_CASE(
    "a few rows times weights are chains over the inputs, for any shape, start and place of the rows", "",
    float, double) {
  using T = TestType;
  constexpr Index W = lanes<T>, most = kernels::few_rows, deep = kernels::detail::few_rows_depth<T, 1>;
  const Index rows = GENERATE(Index{1}, Index{2}, Index{4}, Index{5}, Index{8}, Index{9}, Index{16});
  if (rows > most) return;
  const Index shapes[][2] = {
      {W, 1}, {W + 1, W}, {3 * W - 1, 2 * W + 3}, {2 * W, deep + 5}, {43 * W + 2, 3 * deep / 2}};
  const auto [outputs, inputs] = shapes[GENERATE(0, 1, 2, 3, 4)];
  const auto x = draw<T>(3 * most * inputs, 1), w = draw<T>(outputs * (inputs + 3), 2),
             bias = draw<T>(outputs, 3);
  const auto old = draw<T>(rows * outputs, 4);
  const MatrixView<const T> weights{w.data(), outputs, inputs, inputs + 3};
  Index number[most];
  for (Index m = 0; m < most; ++m) number[m] = 2 * most - m;
  const Operand<T> lie[] = {{x.data(), rows, inputs, inputs, 1},
                            {x.data(), rows, inputs, 1, rows},             // column by column
                            {x.data(), rows, inputs, inputs, 1, number}};  // gathered
  for (const Operand<T>& a : lie)
    for (const kernels::InitialC<T> start :
         {kernels::InitialC<T>{}, kernels::InitialC<T>{.bias = bias.data()},
          kernels::InitialC<T>{.accumulate = true}}) {
      auto c = old;
      Index finished = 0;
      const auto count = [&](Rows r, Rows columns) { finished += r.count * columns.count; };
      kernels::gemm<T>(a, kernels::transposed<T>(weights), {c.data(), rows, outputs, outputs}, start,
                       kernels::Epilogue(count));
      bool same = true;
      for (Index m = 0; m < rows; ++m)
        for (Index j = 0; j < outputs; ++j) {
          const auto at = static_cast<std::size_t>(m * outputs + j);
          const T from = start.accumulate ? old[at] : start.bias ? bias[static_cast<std::size_t>(j)] : T(0);
          same = same && c[at] == chain<T>(from, a.row(m), a.col_stride, weights[j], inputs);
        }
      CHECK(same);
      CHECK(finished == rows * outputs);
    }
}

TEST_CASE("threads share a product of one row, and its bits are the same") {
  const Index outputs = 1200, inputs = 700;
  const auto x = draw<float>(inputs, 1), w = draw<float>(outputs * inputs, 2);
  const MatrixView<const float> weights{w.data(), outputs, inputs, inputs};
  std::vector<float> one(outputs), many(outputs);
  std::atomic<Index> finished{0};
  const auto count = [&](Rows, Rows columns) { finished += columns.count; };
  kernels::affine<float>({}, MatrixView<const float>{x.data(), 1, inputs, inputs}, weights, nullptr,
                         {one.data(), 1, outputs, outputs});
  std::atomic<int> tasks{0};
  Exec{3}.region([&](const Exec& exec) {
    kernels::gemm<float>(exec, MatrixView<const float>{x.data(), 1, inputs, inputs},
                         kernels::transposed<float>(weights), {many.data(), 1, outputs, outputs}, {},
                         kernels::Epilogue([&](Rows rows, Rows columns) {
                           ++tasks;
                           count(rows, columns);
                         }));
  });
  CHECK(one == many);
  CHECK(finished == outputs);
  CHECK(tasks > 1);
}
