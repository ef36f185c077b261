// Neither a gradient step of a dense mixture nor one of a hierarchical mixture allocates after the first.
// malloc is replaced by tests/allocation/count_test.cpp, in the same program.
#include "count.hpp"

#include <moegpt/classical/dense_mixture.hpp>
#include <moegpt/classical/hierarchical_mixture.hpp>
#include <moegpt/train/adam.hpp>

#include "../support/catch.hpp"
#include "../support/numbers.hpp"

using namespace moegpt;

namespace {

constexpr Index N = 300;

// The most allocations of a step after the first; step(grad) sets the gradient.
template <class Mixture, class Step>
long allocations_of_steps(Mixture& mixture, Mixture& grad, const Exec& exec, Step&& step) {
  Adam<Mixture> adam;
  long most = 0;
  for (int i = 0; i < 10; ++i) {
    const long before = allocations;
    set_zero(grad, exec);
    step();
    adam.step(mixture, grad, exec);
    if (i > 0) most = std::max(most, allocations - before);
  }
  return most;
}

template <Leaf L>
long allocations_of_tree() {
  using Tree = HierarchicalMixture<3, 2, L, float, 2, 3>;
  Tree tree, grad;
  typename Tree::Tape tape;
  typename Tree::Scratch scratch;
  draw_weights(tree, 1);
  for_each_weight_of_kind(
      [](Kind kind, auto& w) {
        for (Index i = 0; kind == Kind::buffer && i < w.size(); ++i) w[i] = 0.7f;  // variances
      },
      tree);
  const Pass pass{.shape = {1, N}, .exec = {2}};
  const auto x = random_tokens<3, float>(N, 2);
  auto target = random_tokens<2, float>(N, 3);
  for (Index n = 0; n < N; ++n) target[n][0] = target[n][0] > 0, target[n][1] = 1 - target[n][0];
  const std::vector<float> weights(N, 1.0f);
  return allocations_of_steps(tree, grad, pass.exec, [&] {
    tree.forward(x, target, tape, pass);
    tree.backward(x, target, tape, weights.data(), Sum(Out<3, float>{}), grad, scratch, pass);
  });
}

}  // namespace

TEST_CASE("steps 2 to 10 of a dense mixture on two threads do not allocate, by any of its losses") {
  using Mixture = DenseMixture<Linear<3, 2, float>, Linear<3, 4, float>, Linear<3, 4, float>>;
  for (const MixtureLoss rule : {MixtureLoss::cooperative, MixtureLoss::competitive, MixtureLoss::log_mixture,
                                 MixtureLoss::classification}) {
    Mixture mixture, grad;
    Mixture::Tape tape;
    Mixture::Scratch scratch;
    draw_weights(mixture, 1);
    const Pass pass{.shape = {1, N}, .exec = {2}};
    const auto x = random_tokens<3, float>(N, 2);
    const auto target = random_tokens<4, float>(N, 3);
    Tokens<4, float> y(N);
    Tokens<3, float> dx(N);
    const std::vector<int> labels(N, 1);
    CAPTURE(static_cast<int>(rule));
    CHECK(allocations_of_steps(mixture, grad, pass.exec, [&] {
            mixture.forward(x, y, tape, scratch, pass);
            if (rule == MixtureLoss::classification) {
              mixture.classification_loss(labels.data(), tape, pass);
              mixture.backward_classification(x, labels.data(), tape, dx, grad, scratch, pass);
            } else {
              mixture.loss(rule, target, tape, pass);
              mixture.backward_loss(rule, x, target, tape, dx, grad, scratch, pass);
            }
            mixture.backward(x, tape, target, dx, grad, scratch, pass);
          }) == 0);
  }
}

TEST_CASE(
    "steps 2 to 10 of a hierarchical mixture on two threads do not allocate, with either kind of leaf") {
  CHECK(allocations_of_tree<Leaf::gaussian>() == 0);
  CHECK(allocations_of_tree<Leaf::logistic>() == 0);
}
