#include <moegpt/kernels/dispatch.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {
constexpr int D = 6;
// Three tokens with up to two choices; token 1 has none, token 2 one. Slots are not in token order.
const Index slot[6] = {2, 0, -1, -1, 1, -1};
const Index token[3] = {0, 2, 0};
}  // namespace

TEST_CASE("gather copies each slot's token") {
  const auto x = random_tokens<D, float>(3, 1);
  Tokens<D, float> slot_count(3);
  kernels::gather<float>(x.view(), token, slot_count);
  for (Index s = 0; s < 3; ++s) CHECK(same_bits(slot_count[s], x[token[s]], D));
}

TEST_CASE("scale_rows multiplies each row by its gate") {
  Tokens<D, double> x = random_tokens<D, double>(3, 3);
  const auto before = x;
  const double weight[3] = {0.25, 2, -1};
  kernels::scale_rows<double>(weight, x);
  for (Index s = 0; s < 3; ++s)
    for (int i = 0; i < D; ++i) CHECK(x[s][i] == weight[s] * before[s][i]);
}

TEST_CASE("combine sums gate times slot over a token's choices, and writes zero for a token without slots") {
  const auto slot_count = random_tokens<D, double>(3, 2);
  const double weight[3] = {0.25, 2, -1};
  Tokens<D, double> y(3);
  y.memory().fill(99);  // overwritten
  kernels::combine<double>(Exec{2}, slot_count.view(), slot, 2, weight, y);
  for (int i = 0; i < D; ++i) {
    CHECK(y[0][i] == Approx(-slot_count[2][i] + 0.25 * slot_count[0][i]).epsilon(1e-14).margin(1e-15));
    CHECK(y[1][i] == 0);
    CHECK(y[2][i] == 2 * slot_count[1][i]);
  }
  kernels::combine<double>(Exec{1}, slot_count.view(), slot, 2, nullptr, y);  // no weights: a plain sum
  for (int i = 0; i < D; ++i) CHECK(y[0][i] == slot_count[2][i] + slot_count[0][i]);
}

TEST_CASE("the number of threads does not change a bit of combine") {
  const Index tokens = 300;
  const auto slot_count = random_tokens<D, float>(2 * tokens, 5);
  const auto weight = random_numbers<float>(2 * tokens, 6);
  Buffer<Index> where(2 * tokens);
  for (Index i = 0; i < 2 * tokens; ++i) where[i] = (i * 7) % (2 * tokens);  // 7 and 600 share no factor
  Tokens<D, float> one(tokens), many(tokens);
  kernels::combine<float>(Exec{1}, slot_count.view(), where.data(), 2, weight.data(), one);
  for (const int threads : {2, 3, 8}) {
    kernels::combine<float>(Exec{threads}, slot_count.view(), where.data(), 2, weight.data(), many);
    CHECK(same_bits(one, many));
  }
}
