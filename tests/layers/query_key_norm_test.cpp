#include <moegpt/layers/query_key_norm.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

template <class L>
Tokens<L::dim_in, double> result_of(const L& layer, const Tokens<L::dim_in, double>& x, const Pass& pass) {
  Tokens<L::dim_in, double> y(x.count());
  typename L::Tape tape;
  typename L::Scratch scratch;
  layer.forward(x, y, tape, scratch, pass);
  return y;
}

}  // namespace

TEST_CASE("the gradients of the norms of queries and keys agree with differences") {
  GradcheckOptions options;
  SECTION("no limit") {}
  SECTION("limited") { options.pass.options.qkv_clip = 0.8; }
  gradcheck_three_seeds<HeadNorm<QueryKeyNorm::head, 6, 3, double>>(options);
  gradcheck_three_seeds<HeadNorm<QueryKeyNorm::full, 6, 3, double>>(options);
  gradcheck_three_seeds<HeadNorm<QueryKeyNorm::none, 6, 3, double>>(options);
}

TEST_CASE("a norm of heads divides each head by its root mean square, a full norm the whole token") {
  const auto x = random_tokens<6, double>(2, 4);
  const Pass pass{.shape = {1, 2}, .options = {.norm_epsilon = 1e-12}};
  HeadNorm<QueryKeyNorm::head, 6, 3, double> head;
  HeadNorm<QueryKeyNorm::full, 6, 3, double> full;
  for (int i = 0; i < 3; ++i) head.weight[i] = i + 1;
  for (int i = 0; i < 6; ++i) full.weight[i] = i + 1;
  const auto by_head = result_of(head, x, pass), whole = result_of(full, x, pass);
  const auto rms = [](const double* numbers, int count) {
    double sum = 0;
    for (int i = 0; i < count; ++i) sum += numbers[i] * numbers[i];
    return std::sqrt(sum / count);
  };
  for (Index n = 0; n < 2; ++n)
    for (int i = 0; i < 6; ++i) {
      CHECK(by_head[n][i] == Approx((i % 3 + 1) * x[n][i] / rms(x[n] + i / 3 * 3, 3)));
      CHECK(whole[n][i] == Approx((i + 1) * x[n][i] / rms(x[n], 6)));
    }
}

TEST_CASE("a limit keeps numbers within it, and their gradients are those of dy, or 0 beyond") {
  using L = HeadNorm<QueryKeyNorm::none, 2, 1, double>;
  const L layer;
  L grad;
  L::Tape tape;
  L::Scratch scratch;
  Tokens<2, double> x(2), dy(2);
  const double numbers[] = {3, -0.5, -2.5, 2};
  std::copy_n(numbers, 4, x[0]);
  for (int i = 0; i < 4; ++i) dy[0][i] = i + 1;
  const Pass pass{.shape = {1, 2}, .options = {.qkv_clip = 2}};
  const auto y = result_of(layer, x, pass);
  CHECK(std::vector(y[0], y[0] + 4) == std::vector<double>{2, -0.5, -2, 2});
  layer.backward(x, tape, dy, dy, grad, scratch, pass);
  CHECK(std::vector(dy[0], dy[0] + 4) == std::vector<double>{0, 2, 0, 0});
}
