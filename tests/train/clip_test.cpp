#include <moegpt/core/random.hpp>
#include <moegpt/train/clip.hpp>

#include "../support/catch.hpp"
#include <limits>

#include <limits>

using namespace moegpt;

namespace {

// More numbers in one weight than a piece (32768) and than all pieces summed at once (64 of them).
struct Tree {
  Weight<float, 1500, 1500> large;
  Weight<float, 7> small;
  Weight<float, 3> buffer;
  static constexpr auto fields() {
    return Fields{Field{"large", &Tree::large}, Field{"small", &Tree::small},
                  Field{"buffer", &Tree::buffer, Kind::buffer}};
  }
};

Tree random_tree() {
  Tree tree;
  Rng rng(1);
  for_each_weight(
      [&](auto& w) {
        for (float& x : w) x = static_cast<float>(rng.uniform() - 0.5);
      },
      tree);
  return tree;
}

}  // namespace

TEST_CASE("the global norm is Eigen's over all trainable weights, and a buffer does not count") {
  Tree tree = random_tree();
  tree.buffer.eigen().setConstant(1e6f);
  const double expected = std::sqrt(tree.large.eigen().cast<double>().squaredNorm() +
                                    tree.small.eigen().cast<double>().squaredNorm());
  // two million squares in double: their rounding errors mostly cancel
  CHECK(global_norm(tree) == Approx(expected).epsilon(1e-12));
}

TEST_CASE("the global norm has the same bits for any number of threads") {
  const Tree tree = random_tree();
  const double one = global_norm(tree);
  for (const int threads : {2, 3, 8}) CHECK(global_norm(tree, {.threads = threads}) == one);
}

TEST_CASE("a released gradient does not count") {
  Tree tree = random_tree();
  tree.large.release();
  const double expected = std::sqrt(tree.small.eigen().cast<double>().squaredNorm());
  CHECK(global_norm(tree) == Approx(expected).epsilon(1e-15));
  tree.small.release();
  CHECK(global_norm(tree) == 0);
}

TEST_CASE("squares of floats beyond a float's range do not overflow the norm") {
  Tree tree;
  tree.small[2] = 1e30f;
  CHECK(global_norm(tree) == Approx(1e30).epsilon(1e-6));  // 1e30f is not quite 1e30
}

TEST_CASE("a norm that is not finite is reported, not hidden") {
  Tree tree = random_tree();
  tree.small[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(global_norm(tree)));
}

TEST_CASE("clip_scale throws for a norm that is not finite, whatever the limit") {
  const double infinity = std::numeric_limits<double>::infinity(),
               nan = std::numeric_limits<double>::quiet_NaN();
  for (const double norm : {infinity, -infinity, nan})
    for (const double limit : {1.0, 0.0, infinity})
      CHECK_THROWS_AS(clip_scale(norm, limit), std::runtime_error);
}

TEST_CASE("a norm within the limit is unchanged and a larger one is scaled to it") {
  CHECK(clip_scale(0.5, 1) == 1);
  CHECK(clip_scale(0, 1) == 1);
  CHECK(clip_scale(4, 1) == Approx(0.25).epsilon(1e-6));  // PyTorch divides by norm + 1e-6
  CHECK(4 * clip_scale(4, 1) <= 1);
  CHECK(clip_scale(1, 1) == 1 / (1 + 1e-6));  // PyTorch: min(1, limit / (norm + 1e-6))
  CHECK(clip_scale(1 - 2e-6, 1) == 1);
  CHECK(clip_scale(3, std::numeric_limits<double>::infinity()) == 1);
}

TEST_CASE("a limit of zero or less means no clipping") {
  CHECK(clip_scale(1e9, 0) == 1);
  CHECK(clip_scale(1e9, -1) == 1);
}

TEST_CASE("a norm below zero and a limit that is NaN are rejected, and an infinite limit clips nothing") {
  CHECK_THROWS_AS(clip_scale(-1, 1), std::invalid_argument);
  CHECK_THROWS_WITH(clip_scale(2, std::nan("")), ContainsSubstring("the limit is NaN"));
  CHECK(clip_scale(2, std::numeric_limits<double>::infinity()) == 1);
}
