#include <moegpt/kernels/attention.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

TEMPLATE_TEST_CASE(
    "a query alone has the bits that it has among many, for any width, window and number of keys", "", float,
    double) {
  using T = TestType;
  constexpr Index W = lanes<T>;
  const Index widths[] = {5, W, 4 * W, 5 * W, 9 * W + 3}, lengths[] = {W, 2 * W + 1, 70};
  const Index width = widths[GENERATE(0, 1, 2, 3, 4)], keys = lengths[GENERATE(0, 1, 2)];
  const Index window = GENERATE(0, 3);
  const auto draw = [&](std::uint64_t seed) {
    std::vector<T> x(static_cast<std::size_t>(keys * width));
    Rng rng(seed);
    for (T& v : x) v = static_cast<T>(rng.normal());
    return x;
  };
  const auto q = draw(1), k = draw(2), v = draw(3);
  const auto view = [&](const std::vector<T>& x) {
    return MatrixView<const T>{x.data(), keys, width, width};
  };
  std::vector<T> together(q.size()), alone(q.size());
  std::vector<T> lse(static_cast<std::size_t>(keys)), lse_alone(lse);
  Buffer<T> scratch(kernels::attention_scratch(keys, width));
  const kernels::AttentionHead<T> head{.scale = T(0.7), .rule = {.keys = keys, .window = window}};
  REQUIRE_FALSE(kernels::are_few_queries(head, {0, keys}));
  kernels::attention_forward<T>(head, view(q), view(k), view(v), {0, keys},
                                {together.data(), keys, width, width}, lse.data(), scratch.data());
  for (Index i = 0; i < keys; ++i) {
    CHECK(kernels::are_few_queries(head, {i, 1}) == (i + 1 >= W));
    kernels::attention_forward<T>(head, view(q), view(k), view(v), {i, 1}, {alone.data(), keys, width, width},
                                  lse_alone.data(), scratch.data());
  }
  CHECK(alone == together);
  CHECK(lse_alone == lse);
}
