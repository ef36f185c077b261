// Products with weights in panels: every element is the chain of multiply-adds over the inputs, of
// weights as read_row widens them, for any number of rows and threads (invariants 5 and 6).
#include <moegpt/kernels/embedding.hpp>
#include <moegpt/kernels/feed_forward.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;
using kernels::Operand;

namespace {

std::vector<float> draw(Index count, std::uint64_t seed) {
  std::vector<float> x(static_cast<std::size_t>(count));
  Rng rng(seed);
  for (float& v : x) v = static_cast<float>(rng.normal());
  return x;
}

// W [outputs, inputs] in panels of S, and as it is widened.
template <class S>
struct Matrix {
  Index outputs, inputs;
  Buffer<typename Panels<S>::Unit> memory{Panels<S>::units(outputs, inputs)};
  std::vector<float> wide = std::vector<float>(static_cast<std::size_t>(outputs * inputs));

  Matrix(Index rows, Index cols) : outputs(rows), inputs(cols) {
    const auto drawn = draw(rows * cols, 5);
    for (Index n = 0; n < rows; ++n) {
      write_row(PanelsView<S, typename Panels<S>::Unit>{memory.data(), rows, cols}, n,
                drawn.data() + n * cols);
      read_row(view(), n, wide.data() + n * cols);
    }
  }
  ConstPanelsView<S> view() const { return {memory.data(), outputs, inputs}; }
};

float chain(float start, const float* x, Index step, const float* w, Index depth) {
  Vector<float> sum = Vector<float>{} + start;
  for (Index k = 0; k < depth; ++k) sum = multiply_add(x[k * step], Vector<float>{} + w[k], sum);
  return sum[0];
}

}  // namespace

TEMPLATE_TEST_CASE("products with stored weights are chains over the inputs for every number of rows", "",
                   float, BF16, INT8) {
  constexpr Index W = lanes<float>, deep = kernels::detail::few_rows_depth<float, 1>;
  const Index shapes[][2] = {{1, 7},
                             {W, 1},
                             {W, 32},
                             {W + 1, 5 * W + 3},
                             {2 * W - 1, 64},
                             {3 * W + 2, 161},
                             {5 * W, deep + 37},
                             {70, 2 * deep + 96}};
  const auto [outputs, inputs] = shapes[GENERATE(0, 1, 2, 3, 4, 5, 6, 7)];
  const Matrix<TestType> w(outputs, inputs);
  const auto bias = draw(outputs, 3);
  for (const Index rows : {1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 48, 100}) {
    const auto x = draw(2 * rows * inputs, 1), old = draw(rows * outputs, 4);
    std::vector<Index> number(static_cast<std::size_t>(rows));
    for (Index m = 0; m < rows; ++m) number[static_cast<std::size_t>(m)] = 2 * rows - 1 - m;
    const Operand<float> lie[] = {{x.data(), rows, inputs, inputs, 1},
                                  {x.data(), rows, inputs, 1, rows},                    // column by column
                                  {x.data(), rows, inputs, inputs, 1, number.data()}};  // gathered
    for (const Operand<float>& a : lie)
      for (const kernels::InitialC<float> start :
           {kernels::InitialC<float>{}, kernels::InitialC<float>{.bias = bias.data()},
            kernels::InitialC<float>{.accumulate = true}}) {
        auto c = old;
        Index finished = 0;
        const auto count = [&](Rows r, Rows columns) { finished += r.count * columns.count; };
        kernels::gemm<float, kernels::WeightOperand<float, Panels<TestType>>>(
            a, kernels::transposed<float>(w.view()), {c.data(), rows, outputs, outputs}, start,
            kernels::Epilogue(count));
        bool same = true;
        for (Index m = 0; m < rows; ++m)
          for (Index j = 0; j < outputs; ++j) {
            const auto at = static_cast<std::size_t>(m * outputs + j);
            const float from = start.accumulate ? old[at]
                               : start.bias     ? bias[static_cast<std::size_t>(j)]
                                                : 0;
            same = same && c[at] == chain(from, a.row(m), a.col_stride, w.wide.data() + j * inputs, inputs);
          }
        INFO(rows << " rows of " << inputs << " inputs, " << outputs << " outputs");
        CHECK(same);
        CHECK(finished == rows * outputs);
      }
  }
}

TEMPLATE_TEST_CASE(
    "large products with stored weights have the bits of the widened weights, for any number of threads", "",
    float, BF16, INT8) {
  const Index outputs = 1030, inputs = 600, rows = GENERATE(Index{1}, Index{13}, Index{600});
  const Matrix<TestType> w(outputs, inputs);
  const auto x = draw(rows * inputs, 1);
  const MatrixView<const float> in{x.data(), rows, inputs, inputs},
      wide{w.wide.data(), outputs, inputs, inputs};
  std::vector<float> expected(static_cast<std::size_t>(rows * outputs)), one(expected.size()),
      many(expected.size());
  kernels::affine<float>({}, in, wide, nullptr, {expected.data(), rows, outputs, outputs});
  kernels::affine<float, Panels<TestType>>({}, in, w.view(), nullptr, {one.data(), rows, outputs, outputs});
  Exec{3}.region([&](const Exec& exec) {
    kernels::affine<float, Panels<TestType>>(exec, in, w.view(), nullptr,
                                             {many.data(), rows, outputs, outputs});
  });
  if constexpr (!build_info().blas) CHECK(one == expected);
  CHECK(one == many);
}

TEMPLATE_TEST_CASE("a row of a stored table is looked up as it is widened", "", float, BF16, INT8) {
  const Matrix<TestType> table(9, 37);
  const int ids[] = {3, 8, 0, 3};
  std::vector<float> y(4 * 37);
  kernels::look_up<float, Panels<TestType>>({}, table.view(), ids, {y.data(), 4, 37, 37});
  for (std::size_t n = 0; n < 4; ++n)
    CHECK(std::memcmp(y.data() + n * 37, table.wide.data() + ids[n] * 37, 37 * sizeof(float)) == 0);
}

TEMPLATE_TEST_CASE("activations follow stored weights within the product, too", "", float, BF16, INT8) {
  const Index rows = GENERATE(Index{1}, Index{40}), hidden = 50, inputs = 70;
  const Matrix<TestType> w(hidden, inputs);
  const auto x = draw(rows * inputs, 1), gate = draw(rows * hidden, 2), bias = draw(hidden, 3);
  const MatrixView<const float> in{x.data(), rows, inputs, inputs},
      wide{w.wide.data(), hidden, inputs, inputs}, g{gate.data(), rows, hidden, hidden};
  std::vector<float> pre(static_cast<std::size_t>(rows * hidden)), h(pre.size()), wide_pre(pre), wide_h(pre);
  const auto view = [&](std::vector<float>& v) { return MatrixView<float>{v.data(), rows, hidden, hidden}; };
  kernels::hidden<float, Panels<TestType>>({}, Activation::gelu, in, w.view(), bias.data(), view(pre),
                                           view(h));
  kernels::hidden<float>({}, Activation::gelu, in, wide, bias.data(), view(wide_pre), view(wide_h));
  if constexpr (!build_info().blas) CHECK((pre == wide_pre && h == wide_h));
  kernels::hidden_gated<float, Panels<TestType>>({}, Activation::silu, in, w.view(), bias.data(), g,
                                                 view(pre), view(h));
  kernels::hidden_gated<float>({}, Activation::silu, in, wide, bias.data(), g, view(wide_pre), view(wide_h));
  if constexpr (!build_info().blas) CHECK((pre == wide_pre && h == wide_h));
}
