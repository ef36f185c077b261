#include <moegpt/classical/hierarchical_mixture.hpp>

#include "differences.hpp"
#include "support/catch.hpp"
#include "support/numbers.hpp"

using namespace moegpt;

namespace {

template <Leaf L>
using Tree = HierarchicalMixture<2, 2, L, double, 2, 3>;

// Two half-planes with a linear map each, plus noise; or the class of a corner of a square.
struct Data {
  Tokens<2, double> x, target;
  Data(Leaf leaf, Index count, std::uint64_t seed)
      : x(random_tokens<2, double>(count, seed)), target(random_tokens<2, double>(count, seed + 1)) {
    for (Index n = 0; n < count; ++n) {
      const double a = x[n][0], b = x[n][1];
      if (leaf == Leaf::logistic) {
        target[n][0] = (a > 0) == (b > 0.2);
        target[n][1] = 1 - target[n][0];
      } else {
        target[n][0] = (a > 0 ? 2 * b + 1 : -b) + 0.1 * target[n][0];
        target[n][1] = (a + b > 0.5 ? 1 : a) + 0.1 * target[n][1];
      }
    }
  }
};

template <class Mixture>
void start(Mixture& mixture, std::uint64_t seed) {
  draw_weights(mixture, seed);
  for_each_weight_of_kind(
      [](Kind kind, auto& w) {
        for (Index i = 0; kind == Kind::buffer && i < w.size(); ++i) w[i] = 0.7;  // variances
      },
      mixture);
}

template <Leaf L>
void check_gradient() {
  for (const std::uint64_t seed : {1, 2, 3}) {
    Data data(L, 6, seed);
    Tree<L> tree, grad;
    typename Tree<L>::Tape tape;
    typename Tree<L>::Scratch scratch;
    start(tree, seed);
    set_zero(grad);
    const Pass pass{.shape = {1, 6}};
    Tokens<2, double> dx(6);
    dx.memory().fill(0);
    const double weights[] = {1, 0.5, 2, 1, 0, 1};
    const auto value = [&] {
      tree.forward(data.x, data.target, tape, pass);
      double sum = 0;
      for (int n = 0; n < 6; ++n) sum += weights[n] * *tape.log_likelihood[n];
      return sum;
    };
    value();
    tree.backward(data.x, data.target, tape, weights, Sum(dx.view()), grad, scratch, pass);
    CHECK(worst_gradient_error(tree, grad, data.x, dx, value) <= 1e-6);
  }
}

template <Leaf L>
void check_em() {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    const Data data(L, 150, 100 + seed);
    Tree<L> tree;
    start(tree, seed);
    typename Tree<L>::Tape tape;
    double last = em_pass(tree, In<2, double>(data.x), In<2, double>(data.target), tape);
    const double first = last;
    for (int pass = 0; pass < 25; ++pass) {
      const double now = em_pass(tree, In<2, double>(data.x), In<2, double>(data.target), tape);
      CHECK(now >= last - 1e-9 * std::abs(last));
      last = now;
    }
    CHECK(last > first + 10);
  }
}

}  // namespace

TEST_CASE("gradients of the log-likelihood of a tree are its differences") {
  SECTION("Gaussian leaves") { check_gradient<Leaf::gaussian>(); }
  SECTION("logistic leaves") { check_gradient<Leaf::logistic>(); }
}

TEST_CASE("the likelihood of a tree is the sum over its leaves") {
  const Data data(Leaf::gaussian, 4, 3);
  Tree<Leaf::gaussian> tree;
  start(tree, 5);
  Tree<Leaf::gaussian>::Tape tape;
  tree.forward(data.x, data.target, tape, {.shape = {1, 4}});
  Tokens<2, double> mean(4);
  tree.mean(tape, mean);
  for (Index n = 0; n < 4; ++n) {
    double likelihood = 0, y = 0;
    for (std::size_t a = 0; a < 2; ++a)
      for (std::size_t b = 0; b < 3; ++b) {
        const auto& child = tape.children[a];
        const double* out = child.children[b].out[n];
        const double squares =
            std::pow(data.target[n][0] - out[0], 2) + std::pow(data.target[n][1] - out[1], 2);
        const double p = tape.g[n][a] * child.g[n][b];
        likelihood += p * std::exp(-squares / 1.4) / (2 * 3.14159265358979 * 0.7);
        y += p * out[0];
      }
    CHECK(*tape.log_likelihood[n] == Approx(std::log(likelihood)));
    CHECK(mean[n][0] == Approx(y));
  }
}

TEST_CASE("no pass of expectation maximisation lowers the penalised log-likelihood") {
  SECTION("Gaussian leaves") { check_em<Leaf::gaussian>(); }
  SECTION("logistic leaves") { check_em<Leaf::logistic>(); }
}

TEST_CASE("a single level, and a deeper one, are trees, too") {
  using Flat = HierarchicalMixture<2, 1, Leaf::gaussian, float, 4>;
  using Deep = HierarchicalMixture<2, 1, Leaf::gaussian, float, 2, 2, 2>;
  CHECK(Flat::leaves == 4);
  CHECK(Deep::leaves == 8);
  std::string paths;
  Deep deep;
  for_each_named_weight([&](const std::string& path, Kind, auto&) { paths += path + " "; }, deep);
  CHECK_THAT(paths, ContainsSubstring("children.1.children.0.children.1.output.weight "));
}

TEST_CASE("options of expectation maximisation are checked") {
  const Data data(Leaf::gaussian, 4, 3);
  Tree<Leaf::gaussian> tree;
  Tree<Leaf::gaussian>::Tape tape;
  CHECK_THAT(
      refusal([&] { em_pass(tree, In<2, double>(data.x), In<2, double>(data.target), tape, {.ridge = 0}); }),
      ContainsSubstring("must be above 0"));
  CHECK_THAT(refusal([&] { tree.forward(data.x, data.target.rows({0, 3}), tape, {.shape = {1, 4}}); }),
             ContainsSubstring("3 targets for 4 tokens"));
}
