#include <moegpt/core/random.hpp>
#include <moegpt/model/head.hpp>

#include "../support/catch.hpp"

using namespace moegpt;

namespace {

constexpr int D = 5, V = 7;
constexpr Index N = 6;
using Separate = Head<D, V, double, false, true>;
using Tied = Head<D, V, double, true, true>;

void draw(double* x, Index n, std::uint64_t seed) {
  Rng rng(seed);
  for (Index i = 0; i < n; ++i) x[i] = rng.normal();
}

// One head and what it is given.
template <class HeadType>
struct Scene {
  HeadType head, grad;
  typename HeadType::Table embedding, d_embedding;
  Tokens<D, double> x{N}, dx{N};
  typename HeadType::Tape tape;
  typename HeadType::Scratch scratch;
  Pass pass{.shape = {2, 3}};
  std::vector<int> targets{0, 3, 6, 3, 1, 2};

  Scene() {
    draw(head.weight.data(), head.weight.size(), 1);
    draw(head.bias.data(), head.bias.size(), 2);
    draw(embedding.data(), embedding.size(), 3);
    draw(x[0], N * D, 4);
  }
  double loss() { return head.loss(x, embedding, targets.data(), tape, pass); }
  void backward() { head.backward(x, embedding, tape, dx, grad, d_embedding, scratch, pass); }
};

// Mean of -log softmax over the targets that count, by Eigen.
template <class W, class Bias>
double expected_loss(const Eigen::MatrixXd& x, const W& weight, const Bias& bias,
                     const std::vector<int>& targets) {
  const Eigen::MatrixXd logits = (weight * x).colwise() + bias;
  double total = 0;
  int counted = 0;
  for (Index n = 0; n < N; ++n) {
    const int target = targets[static_cast<std::size_t>(n)];
    if (target < 0) continue;
    total += std::log(logits.col(n).array().exp().sum()) - logits(target, n);
    ++counted;
  }
  return total / counted;
}

}  // namespace

TEST_CASE("the loss is the mean of -log softmax at the targets, and the logits stay in the tape") {
  Scene<Separate> s;
  const Eigen::VectorXd bias = s.head.bias.eigen().row(0);
  // ten roundings of numbers near one
  CHECK(s.loss() ==
        Approx(expected_loss(s.x.eigen(), s.head.weight.eigen(), bias, s.targets)).epsilon(1e-14));
  const Eigen::MatrixXd logits = (s.head.weight.eigen() * s.x.eigen()).colwise() + bias;
  CHECK((s.tape.logits.eigen() - logits).cwiseAbs().maxCoeff() <= 1e-14);
}

TEST_CASE("a tied head multiplies by the embedding, has no matrix of its own and leaves its gradient there") {
  Scene<Tied> s;
  CHECK(s.head.weight.size() == 0);
  const Eigen::VectorXd bias = s.head.bias.eigen().row(0);
  CHECK(s.loss() == Approx(expected_loss(s.x.eigen(), s.embedding.eigen(), bias, s.targets)).epsilon(1e-14));
  s.d_embedding.eigen().setConstant(1);  // invariant 1: gradients add
  s.backward();
  Scene<Separate> same;
  same.head.weight.eigen() = s.embedding.eigen();
  same.head.bias.eigen() = s.head.bias.eigen();
  same.loss();
  same.backward();
  CHECK((s.d_embedding.eigen().array() - 1 - same.grad.weight.eigen().array()).abs().maxCoeff() <= 1e-15);
  CHECK(s.dx.eigen() == same.dx.eigen());
}

TEST_CASE("a token with a target below zero counts neither in the loss nor in a gradient") {
  Scene<Separate> s;
  s.targets[1] = -1;
  s.targets[4] = -100;
  const Eigen::VectorXd bias = s.head.bias.eigen().row(0);
  CHECK(s.loss() ==
        Approx(expected_loss(s.x.eigen(), s.head.weight.eigen(), bias, s.targets)).epsilon(1e-14));
  CHECK(s.tape.counted == 4);
  s.dx.eigen().setConstant(9);  // invariant 2: overwritten
  s.backward();
  CHECK(s.dx.eigen().col(1).isZero(0));
  CHECK(s.dx.eigen().col(4).isZero(0));
  CHECK_FALSE(s.dx.eigen().col(0).isZero(0));
}

TEST_CASE("a batch without a target that counts has loss zero and gradient zero") {
  Scene<Separate> s;
  s.targets.assign(N, -1);
  CHECK(s.loss() == 0);
  s.backward();
  CHECK(s.grad.weight.eigen().isZero(0));
  CHECK(s.dx.eigen().isZero(0));
}

TEST_CASE("the derivatives of a token's logits sum to zero") {
  Scene<Separate> s;
  s.loss();
  s.backward();
  // softmax sums to one within seven roundings
  for (Index n = 0; n < N; ++n) {
    double sum = 0;
    for (int v = 0; v < V; ++v) sum += s.scratch.d_logits[n * V + v];
    CHECK(std::abs(sum) <= 1e-16 * V);
  }
}

TEST_CASE("a gradient that is not wanted is not computed, and the others do not change") {
  Scene<Separate> s, frozen;
  for (auto* scene : {&s, &frozen}) scene->loss();
  frozen.grad.weight.release();
  s.backward();
  frozen.backward();
  CHECK(frozen.grad.weight.empty());
  CHECK(frozen.grad.bias.eigen() == s.grad.bias.eigen());
  CHECK(frozen.dx.eigen() == s.dx.eigen());
}

TEST_CASE("logits of a thousand do not overflow the loss") {
  Scene<Separate> s;
  s.head.bias[3] = 1000;
  s.targets.assign(N, 3);
  CHECK(s.loss() == Approx(0).margin(1e-15));
  s.targets.assign(N, 0);
  CHECK(std::isfinite(s.loss()));
}

namespace {
constexpr int large = 2500;                            // five blocks
using Large = Head<D, large, double, false, true, 2>;  // with an adapter

struct LargeScene {
  Large head, grad;
  Large::Table embedding, d_embedding;
  Tokens<D, double> x{N}, dx{N};
  Large::Tape tape;
  Large::Scratch scratch;
  std::vector<int> targets{0, 499, 500, -1, 1999, 2499};  // the first and last of blocks, and one ignored

  LargeScene() {
    draw(head.weight.data(), head.weight.size(), 1);
    draw(head.bias.data(), head.bias.size(), 2);
    draw(x[0], N * D, 3);
    draw(head.adapter.a.data(), head.adapter.a.size(), 5);
    draw(head.adapter.b.data(), head.adapter.b.size(), 6);
  }
  void run(Pass pass) {
    pass.options.adapter_alpha = 3;  // a scale of 1.5
    head.loss(x, embedding, targets.data(), tape, pass);
    head.backward(x, embedding, tape, dx, grad, d_embedding, scratch, pass);
  }
};
}  // namespace

TEST_CASE(
    "the gradients of a vocabulary of several blocks are those of the whole, in less scratch than the "
    "logits") {
  LargeScene s;
  REQUIRE(Large::blocks.size() == 5);
  s.run({.shape = {2, 3}});
  CHECK(s.scratch.d_logits.size() * 2 < N * large);
  Eigen::MatrixXd dz = s.tape.logits.eigen().array().exp();
  for (Index n = 0; n < N; ++n) {
    const int target = s.targets[static_cast<std::size_t>(n)];
    dz.col(n) /= dz.col(n).sum() * 5;  // the mean over five targets
    if (target >= 0)
      dz(target, n) -= 1.0 / 5;
    else
      dz.col(n).setZero();
  }
  // sums of up to 2,500 terms whose magnitudes add up to less than a hundred
  const Eigen::MatrixXd a = s.head.adapter.a.eigen(), b = s.head.adapter.b.eigen(), x = s.x.eigen();
  const Eigen::MatrixXd whole = s.head.weight.eigen() + 1.5 * b * a;
  CHECK((s.dx.eigen() - whole.transpose() * dz).cwiseAbs().maxCoeff() <= 1e-12);
  CHECK((s.grad.adapter.a.eigen() - 1.5 * b.transpose() * dz * x.transpose()).cwiseAbs().maxCoeff() <= 1e-12);
  CHECK((s.grad.adapter.b.eigen() - 1.5 * dz * (a * x).transpose()).cwiseAbs().maxCoeff() <= 1e-12);
  CHECK(((s.tape.logits.eigen() - whole * x).colwise() - s.head.bias.eigen().row(0).transpose())
            .cwiseAbs()
            .maxCoeff() <= 1e-13);
  CHECK((s.grad.weight.eigen() - dz * s.x.eigen().transpose()).cwiseAbs().maxCoeff() <= 1e-14);
  CHECK((s.grad.bias.eigen() - dz.rowwise().sum().transpose()).cwiseAbs().maxCoeff() <= 1e-14);
}

TEST_CASE("the gradients of a large vocabulary do not depend on the number of threads") {
  LargeScene one, three;
  one.run({.shape = {2, 3}});
  three.run({.shape = {2, 3}, .exec = {3}});
  CHECK(one.dx.eigen() == three.dx.eigen());
  CHECK(one.grad.weight.eigen() == three.grad.weight.eigen());
  CHECK(one.grad.bias.eigen() == three.grad.bias.eigen());
}

TEST_CASE("what a token gets back from the head does not depend on which other tokens share the call") {
  LargeScene all, alone;
  all.targets = {-1, -1, 500, -1, -1, -1};  // one target counts in both
  all.run({.shape = {2, 3}});
  alone.x.resize(1);
  alone.dx.resize(1);
  alone.x.eigen() = all.x.eigen().col(2);
  alone.targets = {500};
  alone.run({.shape = {1, 1}});
  CHECK(alone.tape.loss[0][0] == all.tape.loss[2][0]);
  CHECK(alone.dx.eigen() == all.dx.eigen().col(2));
}

namespace {
// A vocabulary at an edge of the blocks of 512 that backward takes it in; one target at each end of each
// block.
template <int V>
void check_vocabulary() {
  using Edge = Head<3, V, float, false, true>;
  Edge head, grad;
  typename Edge::Table embedding, d_embedding;
  typename Edge::Tape tape;
  typename Edge::Scratch scratch;
  Rng rng(4);
  for_each_weight(
      [&](auto& w) {
        for (float& x : w) x = static_cast<float>(rng.normal());
      },
      head);
  std::vector<int> targets{-1};
  for (const int id : {0, 511, 512, 1023, 1024, V / 2, V - 1}) targets.push_back(std::min(id, V - 1));
  const auto tokens = std::ssize(targets);
  Tokens<3, float> x(tokens), dx(tokens);
  for (float& v : x.memory()) v = static_cast<float>(rng.normal());
  const Pass pass{.shape = {1, tokens}};
  head.loss(x, embedding, targets.data(), tape, pass);
  head.backward(x, embedding, tape, dx, grad, d_embedding, scratch, pass);
  Eigen::MatrixXd z = head.weight.eigen().template cast<double>() * x.eigen().template cast<double>();
  z.colwise() += head.bias.eigen().row(0).transpose().template cast<double>();
  Eigen::MatrixXd dz = z.array().exp();
  for (Index n = 0; n < tokens; ++n) {
    const int target = targets[static_cast<std::size_t>(n)];
    dz.col(n) /= dz.col(n).sum() * static_cast<double>(tokens - 1);
    if (target < 0)
      dz.col(n).setZero();
    else
      dz(target, n) -= 1.0 / static_cast<double>(tokens - 1);
  }
  CAPTURE(V);
  CHECK((dx.eigen().template cast<double>() - head.weight.eigen().template cast<double>().transpose() * dz)
            .cwiseAbs()
            .maxCoeff() <= 1e-5);
  CHECK((grad.weight.eigen().template cast<double>() - dz * x.eigen().template cast<double>().transpose())
            .cwiseAbs()
            .maxCoeff() <= 1e-6);
  CHECK((grad.bias.eigen().template cast<double>() - dz.rowwise().sum().transpose()).cwiseAbs().maxCoeff() <=
        1e-6);
}
}  // namespace

TEST_CASE("the gradients of a vocabulary at and beside the edges of blocks are those of the whole") {
  check_vocabulary<1>();
  check_vocabulary<17>();
  check_vocabulary<511>();
  check_vocabulary<512>();
  check_vocabulary<513>();
  check_vocabulary<1025>();
}

TEST_CASE("a head rejects a target beyond its vocabulary and tokens that the pass does not have") {
  Scene<Separate> scene;
  scene.targets[4] = V;
  CHECK_THROWS_WITH(scene.loss(), ContainsSubstring("target 4 is 7, expected less than 7"));
  scene.targets[4] = 0;
  scene.pass.shape = {1, 3};
  CHECK_THROWS_AS(scene.loss(), std::invalid_argument);
}
