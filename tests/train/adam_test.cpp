#include <moegpt/layers/linear.hpp>
#include <moegpt/train/adam.hpp>

#include "../support/catch.hpp"

#include <memory>
#include <limits>

using namespace moegpt;

namespace {

// One weight of each sort an optimizer must tell apart.
struct Tree {
  Weight<double, 3, 2> matrix;
  Weight<double, 4> vector;
  Weight<double, 2> counts;
  std::array<Linear<2, 2, double>, 2> experts;
  static constexpr auto fields() {
    return Fields{Field{"matrix", &Tree::matrix}, Field{"vector", &Tree::vector},
                  Field{"counts", &Tree::counts, Kind::buffer},
                  Field{"experts", &Tree::experts, Kind::sparse}};
  }
};

Tree random_tree(std::uint64_t seed) {
  Tree tree;
  Rng rng(seed);
  for_each_weight(
      [&](auto& w) {
        for (double& x : w) x = rng.normal();
      },
      tree);
  return tree;
}
Tree touched(Tree gradient) {
  for (auto& expert : gradient.experts) touch(expert);
  return gradient;
}

// One number's history by the formulas of Kingma and Ba, and of Loshchilov and Hutter.
struct Scalar {
  double w, m = 0, v = 0;
  int t = 0;
  void step(double g, const AdamOptions& o, double decay) {
    ++t;
    if (o.decay == Decay::l2) g += decay * w;
    if (o.decay == Decay::decoupled) w -= o.learning_rate * decay * w;
    m = o.beta1 * m + (1 - o.beta1) * g;
    v = o.beta2 * v + (1 - o.beta2) * g * g;
    const double m_hat = m / (1 - std::pow(o.beta1, t)), v_hat = v / (1 - std::pow(o.beta2, t));
    w -= o.learning_rate * m_hat / (std::sqrt(v_hat) + o.epsilon);
  }
};

// Largest difference from the formulas after five steps, of a number in the matrix and one in the vector.
double error_of_five_steps(const AdamOptions& options) {
  Tree tree = random_tree(1);
  Scalar matrix{tree.matrix[3]}, vector{tree.vector[2]};
  Adam<Tree> adam(options);
  for (std::uint64_t step = 0; step < 5; ++step) {
    const Tree grad = touched(random_tree(10 + step));
    adam.step(tree, grad);
    matrix.step(grad.matrix[3], options, options.weight_decay);
    vector.step(grad.vector[2], options, options.decay_of == DecayOf::matrices ? 0 : options.weight_decay);
  }
  return std::max(std::abs(tree.matrix[3] - matrix.w), std::abs(tree.vector[2] - vector.w));
}

bool same(const double* a, const double* b, Index n) { return std::memcmp(a, b, sizeof(double) * n) == 0; }
template <class W>
bool same(const W& a, const W& b) {
  return same(a.data(), b.data(), a.size());
}

constexpr Index gate = 3;  // of steps(): matrix, vector, counts, then experts 0 and 1 with weight and bias

}  // namespace

TEST_CASE("five steps of Adam and AdamW are the formulas' for every choice of decay") {
  // five steps round a number of size one some dozens of times
  for (const Decay decay : {Decay::decoupled, Decay::l2})
    for (const DecayOf decay_of : {DecayOf::everything, DecayOf::matrices})
      CHECK(error_of_five_steps({.learning_rate = 0.05,
                                 .beta1 = 0.8,
                                 .beta2 = 0.95,
                                 .epsilon = 1e-3,
                                 .weight_decay = 0.3,
                                 .decay = decay,
                                 .decay_of = decay_of}) <= 1e-14);
}

TEST_CASE("the first step moves every number by the learning rate, whatever its gradient's size") {
  Tree tree = random_tree(1), grad = touched(random_tree(2));
  const Tree before = tree;
  Adam<Tree> adam({.learning_rate = 0.01, .weight_decay = 0});
  adam.step(tree, grad);
  for (Index i = 0; i < tree.matrix.size(); ++i)  // epsilon 1e-8 against gradients above 0.01
    CHECK(std::abs(tree.matrix[i] - before.matrix[i]) == Approx(0.01).epsilon(1e-5));
}

TEST_CASE("a buffer is not updated, whatever its gradient holds") {
  Tree tree = random_tree(1);
  const Tree before = tree;
  Adam<Tree> adam;
  for (std::uint64_t step = 0; step < 3; ++step) adam.step(tree, random_tree(step));
  CHECK(same(tree.counts, before.counts));
  CHECK(adam.first_moment().counts.eigen().isZero(0));
  CHECK(adam.second_moment().counts.eigen().isZero(0));
  CHECK(adam.steps()[2] == 0);
}

TEST_CASE("a weight with a released gradient is not updated, does not decay and counts no steps") {
  Tree tree = random_tree(1), grad = touched(random_tree(2));
  grad.vector.release();
  const Tree before = tree;
  Adam<Tree> adam({.weight_decay = 0.5});
  adam.step(tree, grad);
  CHECK(same(tree.vector, before.vector));
  CHECK(adam.steps()[1] == 0);
  CHECK_FALSE(same(tree.matrix, before.matrix));
  CHECK(adam.steps()[0] == 1);
}

TEST_CASE("weights without a gradient have no moments: not at first, or not after the first step") {
  Tree tree = random_tree(1), grad = touched(random_tree(2)), twin = tree;
  grad.vector.release();
  Adam<Tree> early({}, grad), late;
  CHECK(early.first_moment().vector.empty());
  CHECK(early.second_moment().vector.empty());
  CHECK_FALSE(late.first_moment().vector.empty());
  for (int step = 0; step < 2; ++step) early.step(tree, grad), late.step(twin, grad);
  CHECK(late.first_moment().vector.empty());
  CHECK(late.second_moment().vector.empty());
  CHECK(count_weights(early) == 2 * (count_weights(tree) - 4));
  CHECK(same(tree.matrix, twin.matrix));
}

TEST_CASE("a weight that is frozen later keeps its moments, one that is unfrozen gets them") {
  Tree tree = random_tree(1), grad = touched(random_tree(2)), twin = tree;
  Tree vector_frozen = grad, matrix_frozen = grad;
  vector_frozen.vector.release(), matrix_frozen.matrix.release();
  Adam<Tree> adam, never_frozen;
  adam.step(tree, vector_frozen);
  const Tree m = adam.first_moment();
  adam.step(tree, matrix_frozen);
  CHECK(same(adam.first_moment().matrix, m.matrix));
  CHECK(adam.steps()[0] == 1);
  CHECK(adam.steps()[1] == 1);
  never_frozen.step(twin, grad);
  CHECK(same(tree.vector, twin.vector));  // its first step, however late
}

TEST_CASE("a count of steps without moments is rejected by its path, and counts are unchanged") {
  Tree grad = touched(random_tree(2));
  grad.vector.release();
  Adam<Tree> adam({}, grad);
  try {
    adam.set_steps(std::vector<std::int64_t>{1, 1, 0, 0, 0, 0, 0});
    FAIL("expected an error");
  } catch (const std::invalid_argument& error) {
    CHECK(std::string(error.what()).find("the step count of vector is 1, but a moment") != std::string::npos);
  }
  CHECK(adam.steps()[0] == 0);
  adam.set_steps(std::vector<std::int64_t>{1, 0, 0, 0, 0, 0, 0});
  CHECK(adam.steps()[0] == 1);
}

TEST_CASE("a weight that is not held here is skipped") {
  Tree tree = random_tree(1);
  tree.matrix.release();
  Adam<Tree> adam;
  adam.step(tree, touched(random_tree(2)));
  CHECK(tree.matrix.empty());
  CHECK(adam.steps()[0] == 0);
}

TEST_CASE("skip: an expert without tokens is unchanged, with its moments and step count") {
  Tree tree = random_tree(1);
  Adam<Tree> adam({.empty_expert = EmptyExpert::skip});
  adam.step(tree, touched(random_tree(2)));
  const Tree before = tree, m = adam.first_moment(), v = adam.second_moment();
  Tree grad = random_tree(3);
  set_zero(grad.experts[0]);
  touch(grad.experts[1]);
  adam.step(tree, grad);
  CHECK(same(tree.experts[0].weight, before.experts[0].weight));
  CHECK(same(adam.first_moment().experts[0].bias, m.experts[0].bias));
  CHECK(same(adam.second_moment().experts[0].bias, v.experts[0].bias));
  CHECK_FALSE(same(tree.experts[1].weight, before.experts[1].weight));
  CHECK(adam.steps() == std::vector<std::int64_t>{2, 2, 0, 1, 1, 2, 2});
}

TEST_CASE("skip: an expert's correction follows its own steps, not those of the model") {
  Tree tree = random_tree(1);
  Adam<Tree> adam({.learning_rate = 0.01, .weight_decay = 0, .empty_expert = EmptyExpert::skip});
  Tree idle = random_tree(2);
  set_zero(idle.experts);
  for (int i = 0; i < 20; ++i) adam.step(tree, idle);
  const Tree before = tree;
  adam.step(tree, touched(random_tree(3)));
  const double moved = tree.experts[0].weight[1] - before.experts[0].weight[1];
  CHECK(std::abs(moved) == Approx(0.01).epsilon(1e-5));  // a first step
}

TEST_CASE("zero_gradient: an expert without tokens decays, with its moments, and counts the step") {
  Tree tree = random_tree(1);
  Adam<Tree> adam({.learning_rate = 0.1, .weight_decay = 0.5, .empty_expert = EmptyExpert::zero_gradient});
  adam.step(tree, touched(random_tree(2)));
  const Tree m = adam.first_moment();
  Scalar expected{tree.experts[0].weight[0], m.experts[0].weight[0],
                  adam.second_moment().experts[0].weight[0], 1};
  Tree grad = random_tree(3);
  set_zero(grad.experts[0]);
  adam.step(tree, grad);
  expected.step(0, adam.options, 0.5);
  CHECK(tree.experts[0].weight[0] == Approx(expected.w).epsilon(1e-14));
  CHECK(adam.first_moment().experts[0].weight[0] == Approx(0.9 * m.experts[0].weight[0]).epsilon(1e-15));
  CHECK(adam.steps()[gate] == 2);
}

TEST_CASE("a gradient scale multiplies the gradient and leaves it as it was") {
  Tree a = random_tree(1), b = a;
  const Tree grad = touched(random_tree(2));
  Tree half = grad;
  for_each_weight(
      [](auto& w) {
        for (double& x : w) x *= 0.5;
      },
      half);
  Adam<Tree> adam_a({.epsilon = 0.1}), adam_b({.epsilon = 0.1});
  adam_a.step(a, grad, {}, 0.5);
  adam_b.step(b, half);
  CHECK(same(a.matrix, b.matrix));
  CHECK(same(a.experts[1].weight, b.experts[1].weight));
}

TEST_CASE("the learning rate may change between steps") {
  Tree tree = random_tree(1);
  Adam<Tree> adam;
  adam.step(tree, touched(random_tree(2)));
  adam.options.learning_rate = 0;
  const Tree before = tree;
  adam.step(tree, touched(random_tree(3)));
  CHECK(same(tree.matrix, before.matrix));
  CHECK(adam.steps()[0] == 2);
}

TEST_CASE("a step has the same bits for any number of threads, also where chunks split or span weights") {
  struct Large {
    Weight<float, 7> first;
    std::array<Weight<float, 300, 301>, 2> matrices;
    std::array<Weight<float, 5>, 100> vectors;
    static constexpr auto fields() {
      return Fields{Field{"first", &Large::first}, Field{"matrices", &Large::matrices},
                    Field{"vectors", &Large::vectors}};
    }
  };
  auto draw = [](std::uint64_t seed) {
    auto tree = std::make_unique<Large>();
    Rng rng(seed);
    for_each_weight(
        [&](auto& w) {
          for (float& x : w) x = static_cast<float>(rng.normal());
        },
        *tree);
    return tree;
  };
  auto trained = [&](int threads) {
    auto tree = draw(1);
    Adam<Large> adam;
    for (std::uint64_t step = 0; step < 3; ++step) adam.step(*tree, *draw(2 + step), {.threads = threads});
    return tree;
  };
  const auto one = trained(1), begin = draw(1);
  // each number once, wherever the cuts are: the kernel's bits on whole weights
  {
    const auto tree = draw(1), m = std::make_unique<Large>(), v = std::make_unique<Large>();
    constexpr AdamOptions o;
    for (int step = 0; step < 3; ++step)
      for_each_weight(
          [&](auto& w, const auto& g, auto& m_, auto& v_) {
            const double t = step + 1;
            kernels::adam<float>(
                {1, float(o.beta1), float(o.beta2), float(o.learning_rate / (1 - std::pow(o.beta1, t))),
                 float(1 / std::sqrt(1 - std::pow(o.beta2, t))), float(o.epsilon),
                 float(1 - o.learning_rate * o.weight_decay), 0},
                g.data(), w.data(), m_.data(), v_.data(), w.size());
          },
          *tree, *draw(2 + static_cast<std::uint64_t>(step)), *m, *v);
    Index differing = 0;
    for_each_weight(
        [&](const auto& a, const auto& b) {
          for (Index i = 0; i < a.size(); ++i) differing += a[i] != b[i];
        },
        *one, *tree);
    CHECK(differing == 0);
  }
  for (const int threads : {2, 3, 8}) {
    bool equal = true;
    Index moved = 0;
    for_each_weight(
        [&](const auto& a, const auto& b, const auto& before) {
          for (Index i = 0; i < a.size(); ++i) {
            equal = equal && a[i] == b[i];
            moved += a[i] != before[i];
          }
        },
        *one, *trained(threads), *begin);
    CAPTURE(threads);
    CHECK(equal);
    CHECK(moved > 0.999 * static_cast<double>(count_weights(*one)));  // some may come back to where they were
  }
}

TEST_CASE("parts of weights are updated with the bits of the whole, and only their moments are held") {
  const std::vector<Rows> parts[] = {{{0, 4}, {0, 1}, {0, 1}, {0, 2}, {0, 0}, {0, 2}, {0, 1}},
                                     {{4, 2}, {1, 3}, {1, 1}, {2, 2}, {0, 2}, {2, 2}, {1, 1}}};
  Tree whole = random_tree(1), part[] = {random_tree(1), random_tree(1)};
  Adam<Tree> one, adam[2];
  const Tree first = touched(random_tree(2));
  one.step(whole, first);
  for (int i = 0; i < 2; ++i) {
    adam[i].step(part[i], first);
    adam[i].keep_parts(parts[i]);
    CHECK(count_weights(adam[i]) == 0);
  }
  for (std::uint64_t seed = 3; seed < 6; ++seed) {
    Tree grad = touched(random_tree(seed));
    grad.experts[1].weight.touched = false;
    one.step(whole, grad);
    for (int i = 0; i < 2; ++i) adam[i].step(part[i], grad);
    for (int i = 0; i < 2; ++i) {
      std::size_t number = 0;
      for_each_weight(
          [&](const auto& w, const auto& own, const auto& m, const auto& v) {
            const Rows at = parts[i][number];
            const Index to = at.first + at.count;
            CAPTURE(seed, i, number);
            CHECK(same(own.data() + at.first, w.data() + at.first, at.count));
            CHECK(same(adam[i].part(number).data(), m.data() + at.first, at.count));
            CHECK(same(adam[i].part(number + 7).data(), v.data() + at.first, at.count));
            CHECK(adam[i].part(number).size() == at.count);
            // The other part is not updated. Weight 2 is a buffer, 5 the expert without tokens.
            if (number != 2 && number != 5 && to < w.size()) CHECK_FALSE(own[to] == w[to]);
            ++number;
          },
          whole, part[i], one.first_moment(), one.second_moment());
      CHECK(adam[i].steps() == one.steps());
    }
  }
  adam[1].keep_parts(parts[1]);  // as before
  const Adam<Tree> never_whole({}, first, parts[1]);
  CHECK(count_weights(never_whole) == 0);
  for (std::size_t i = 0; i < 14; ++i) {
    CHECK(never_whole.part(i).size() == parts[1][i % 7].count);
    CHECK(std::count(never_whole.part(i).begin(), never_whole.part(i).end(), 0.0) == parts[1][i % 7].count);
  }
  CHECK_THROWS_WITH(adam[1].keep_parts(parts[0]), ContainsSubstring("load whole moments first"));
  CHECK_THROWS_WITH(adam[1].keep_parts(std::vector<Rows>(6)), ContainsSubstring("6 parts for 7 weights"));
  CHECK_THROWS_WITH(Adam<Tree>().keep_parts(std::vector<Rows>(7, {0, 5})),
                    ContainsSubstring("elements 0 to 4 of 4"));
  CHECK_THROWS_WITH(one.part(0), ContainsSubstring("moments are whole"));
}

TEST_CASE("parts are taken from moments that are loaded, and a frozen weight has none") {
  const std::vector<Rows> parts{{2, 3}, {1, 2}, {0, 0}, {0, 0}, {0, 1}, {3, 1}, {0, 2}};
  Tree tree = random_tree(1), expected = random_tree(1), grad = touched(random_tree(2));
  grad.vector.release();
  Adam<Tree> one, adam;
  one.step(expected, grad);
  adam.keep_parts(parts);
  CHECK(adam.part(0).size() == 3);
  for_each_weight([](auto& to) { to.allocate(); }, adam);
  for_each_weight(
      [](auto& to, const auto& from) {
        if (from.empty()) to.release();
        std::copy(from.begin(), from.end(), to.data());
      },
      adam, std::as_const(one));
  adam.set_steps(one.steps());
  const Tree next = touched(random_tree(3));
  one.step(expected, next);
  adam.step(tree = random_tree(1), next);
  CHECK(same(adam.part(0).data(), one.first_moment().matrix.data() + 2, 3));
  CHECK(same(adam.part(8).data(), one.second_moment().vector.data() + 1, 2));  // it got a gradient
  CHECK(count_weights(adam) == 4);                                             // those of the buffer
}

// torch.optim.AdamW: lr 1e-3, betas (0.9, 0.999), eps 1e-8, weight_decay 1e-2
TEST_CASE("the defaults of Adam are PyTorch's AdamW") {
  constexpr AdamOptions usual;
  STATIC_REQUIRE(
      (usual.learning_rate == 1e-3 && usual.beta1 == 0.9 && usual.beta2 == 0.999 && usual.epsilon == 1e-8));
  STATIC_REQUIRE((usual.weight_decay == 0.01 && usual.decay == Decay::decoupled));
  STATIC_REQUIRE((usual.decay_of == DecayOf::everything && usual.empty_expert == EmptyExpert::skip));
}

TEST_CASE("a step with invalid options or scale is rejected and changes nothing") {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  const Tree before = random_tree(1), grad = touched(random_tree(2));
  const auto refuses = [&](const AdamOptions& options, const std::string& part, double scale = 1) {
    Tree tree = before;
    Adam<Tree> adam;
    adam.options = options;
    CHECK_THROWS_WITH(adam.step(tree, grad, {}, scale), ContainsSubstring(part));
    CHECK(tree.matrix[0] == before.matrix[0]);
    for (const auto steps : adam.steps()) CHECK(steps == 0);
  };
  for (const double x : {-1e-3, nan, inf}) {
    refuses({.learning_rate = x}, "learning_rate is ");
    refuses({.weight_decay = x}, "weight_decay is ");
  }
  for (const double x : {-0.1, 1.0, 1.5, nan}) {
    refuses({.beta1 = x}, "beta1 is ");
    refuses({.beta2 = x}, "beta2 is ");
  }
  for (const double x : {0.0, -1e-8, nan, inf}) refuses({.epsilon = x}, "epsilon is ");
  for (const double x : {nan, inf}) refuses({}, "gradient_scale is ", x);
}

TEST_CASE("step counts and moments that are set continue with the same bits") {
  const auto grad = touched(random_tree(2));
  Tree whole = random_tree(1);
  Adam<Tree> adam;
  for (int i = 0; i < 3; ++i) adam.step(whole, grad);
  Tree resumed = whole;
  Adam<Tree> other;
  for_each_weight([](auto& to, const auto& from) { std::copy(from.begin(), from.end(), to.begin()); }, other,
                  std::as_const(adam));
  other.set_steps(adam.steps());
  adam.step(whole, grad), other.step(resumed, grad);
  for_each_weight([](const auto& a, const auto& b) { CHECK(std::equal(a.begin(), a.end(), b.begin())); },
                  std::as_const(whole), std::as_const(resumed));
  auto counts = adam.steps();
  counts[0] = -1;
  CHECK_THROWS_WITH(other.set_steps(counts), "moegpt: Adam: a step count is -1, expected 0 or more");
  counts.pop_back();
  CHECK_THROWS_AS(other.set_steps(counts), std::invalid_argument);
  CHECK(other.steps() == adam.steps());
}
