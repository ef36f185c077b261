#include <moegpt/moe/feed_forward.hpp>

#include "support/catch.hpp"
#include "support/gradchecks.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

template <class T>
using Layer6 = FeedForward<Expert<6, 5, Activation::gelu, T>>;

template <class L>
struct Run {
  using T = typename L::Scalar;
  Tokens<6, T> y, dx;
  typename L::Tape tape;
  typename L::Scratch scratch;
  L grad;
  Run(const L& layer, In<6, T> x, In<6, T> dy, const Pass& pass) : y(pass.tokens()), dx(pass.tokens()) {
    layer.forward(x, y, tape, scratch, pass);
    layer.backward(x, tape, dy, dx, grad, scratch, pass);
  }
};

}  // namespace

TEST_CASE("the gradients of a dense feed-forward layer agree with differences, with dropout too") {
  GradcheckOptions options;
  gradcheck_three_seeds<Layer6<double>>(options);
  options.pass.dropout = 0.4;
  options.pass.key = Key{3};
  gradcheck_three_seeds<Layer6<double>>(options);
}

TEST_CASE("its weights have the paths of its network, without another level") {
  Layer6<float> layer;
  std::vector<std::string> paths;
  for_each_named_weight([&](const std::string& path, Kind, auto&) { paths.push_back(path); }, layer);
  CHECK(paths == std::vector<std::string>{"up.weight", "up.bias", "down.weight", "down.bias"});
}

TEST_CASE("more tokens than one work item: the same bits for 1, 2, 3 and 8 threads, and for a token alone") {
  using L = Layer6<float>;
  L layer;
  draw_weights(layer, 1);
  const auto x = random_tokens<6, float>(500, 2), dy = random_tokens<6, float>(500, 3);
  Pass pass{.shape = {1, 500}, .dropout = 0.3, .key = Key{4}};
  const Run<L> one(layer, x, dy, pass);
  for (const int threads : {2, 3, 8}) {
    pass.exec.threads = threads;
    const Run<L> many(layer, x, dy, pass);
    CHECK(same_bits(one.y, many.y));
    CHECK(same_bits(one.dx, many.dx));
    CHECK(same_weights(one.grad, many.grad));
  }
  pass.shape = {1, 1};
  pass.first_token = 317;
  const Run<L> alone(layer, x.rows({317, 1}), dy.rows({317, 1}), pass);
  CHECK(same_bits(alone.y[0], one.y[317], 6));
  CHECK(same_bits(alone.dx[0], one.dx[317], 6));
}

TEST_CASE("an empty dx is skipped and the gradients of weights keep their bits") {
  using L = Layer6<double>;
  L layer, no_dx;
  draw_weights(layer, 5);
  const auto x = random_tokens<6, double>(7, 6), dy = random_tokens<6, double>(7, 7);
  const Pass pass{.shape = {1, 7}};
  Run<L> run(layer, x, dy, pass);
  layer.backward(x, run.tape, dy, {}, no_dx, run.scratch, pass);
  CHECK(same_weights(run.grad, no_dx));
}
