// Mixtures of the first years: two linear experts and a gate solve a classification that one linear model
// cannot (Jacobs et al. 1991), and expectation maximisation fits the same tree in fewer passes than its
// gradient (Jordan and Jacobs 1994). Writes a picture of the gate's partition: two_experts [PICTURE.svg]
#include <moegpt/classical/dense_mixture.hpp>
#include <moegpt/classical/hierarchical_mixture.hpp>
#include <moegpt/train/adam.hpp>

#include <algorithm>
#include <cstdio>
#include <fstream>

using namespace moegpt;

namespace {

using Linear2 = Linear<2, 2, double>;  // two features to the logits of two classes
using Experts = DenseMixture<Linear2, Linear2, Linear2>;
using Tree = HierarchicalMixture<2, 2, Leaf::logistic, double, 2>;

// Points of a square. The line between the classes has another slope on each side.
struct Points {
  Tokens<2, double> x, target;
  std::vector<int> label;
  Points(Index count, std::uint64_t seed) : x(count), target(count) {
    const Key key{mix64(seed)};
    for (Index n = 0; n < count; ++n) {
      const auto i = static_cast<std::uint64_t>(2 * n);
      const double a = x[n][0] = 2 * key.uniform(i) - 1, b = x[n][1] = 2 * key.uniform(i + 1) - 1;
      label.push_back(a > 0.1 ? b > 0.6 * a - 0.3 : b < 0.5 * a + 0.2);
      target[n][0] = 1 - label.back(), target[n][1] = label.back();
    }
  }
  Pass pass() const { return {.shape = {1, x.count()}}; }
};

double accuracy(const Points& points, In<2, double> score) {
  Index right = 0;
  for (Index n = 0; n < score.count; ++n)
    right += (score[n][1] > score[n][0]) == (points.label[static_cast<std::size_t>(n)] == 1);
  return 100 * static_cast<double>(right) / static_cast<double>(score.count);
}

// Probabilities of the classes: sum_i p_i softmax(o_i).
void predict(const Experts& experts, const Points& points, Experts::Tape& tape, Tokens<2, double>& y) {
  Experts::Scratch scratch;
  experts.forward(points.x, {}, tape, scratch, points.pass());
  y.resize(points.x.count());
  for (Index n = 0; n < y.count(); ++n)
    for (int c = 0; c < 2; ++c) {
      y[n][c] = 0;
      for (int i = 0; i < 2; ++i) {
        const double* o = tape.out[static_cast<std::size_t>(i)][n];
        y[n][c] += tape.p[n][i] / (1 + std::exp(o[1 - c] - o[c]));
      }
    }
}

// Weights uniform in -1 .. 1; buffers, the variances of Gaussian leaves, 1.
template <class Mixture>
void spread(Mixture& mixture, std::uint64_t seed) {
  std::uint64_t next = 1000 * seed;
  for_each_weight_of_kind(
      [&](Kind kind, auto& w) {
        for (Index i = 0; i < w.size(); ++i) w[i] = kind == Kind::buffer ? 1 : 2 * Key{3}.uniform(next++) - 1;
      },
      mixture);
}

Experts trained(const Points& train, std::uint64_t seed, int steps) {
  Experts experts, grad;
  spread(experts, seed);
  Experts::Tape tape;
  Experts::Scratch scratch;
  Adam<Experts> adam{{.learning_rate = 0.1, .weight_decay = 0}};
  for (int step = 0; step < steps; ++step) {
    experts.forward(train.x, {}, tape, scratch, train.pass());
    experts.classification_loss(train.label.data(), tape, train.pass());
    set_zero(grad);
    experts.backward_classification(train.x, train.label.data(), tape, {}, grad, scratch, train.pass());
    adam.step(experts, grad);
  }
  return experts;
}

double linear_accuracy(const Points& train, const Points& test) {
  RowMatrix X(train.x.count(), 3), R(train.x.count(), 2), V = RowMatrix::Zero(2, 3);
  for (Index n = 0; n < train.x.count(); ++n) {
    X.row(n) << train.x[n][0], train.x[n][1], 1;
    R.row(n) << train.target[n][0], train.target[n][1];
  }
  improve_logistic(X, R, V, 1e-3, 30);
  Tokens<2, double> score(test.x.count());
  for (Index n = 0; n < score.count(); ++n)
    for (int c = 0; c < 2; ++c) score[n][c] = V(c, 0) * test.x[n][0] + V(c, 1) * test.x[n][1] + V(c, 2);
  return accuracy(test, score);
}

// Passes over the points until the mean log-likelihood reaches `goal`, at most `most`.
int passes(const Points& train, std::uint64_t seed, bool by_em, double goal, int most) {
  Tree tree, grad;
  spread(tree, seed);
  Tree::Tape tape;
  Tree::Scratch scratch;
  Adam<Tree> adam{{.learning_rate = 0.05, .weight_decay = 0}};
  const double count = static_cast<double>(train.x.count());
  const std::vector<double> weights(train.x.count(), -1 / count);
  for (int pass = 0; pass < most; ++pass) {
    tree.forward(train.x, train.target, tape, train.pass());
    if (total_log_likelihood(tape) / count >= goal) return pass;
    if (by_em) {
      em_pass(tree, In<2, double>(train.x), In<2, double>(train.target), tape);
    } else {
      set_zero(grad);
      tree.backward(train.x, train.target, tape, weights.data(), Sum(Out<2, double>{}), grad, scratch,
                    train.pass());
      adam.step(tree, grad);
    }
  }
  return most;
}

// Points by class, their ground by the gate's choice, and the line where its two experts are equally
// probable.
void draw(const char* path, const Points& points, const Experts& experts) {
  Experts::Tape tape;
  Tokens<2, double> y;
  predict(experts, points, tape, y);
  const auto px = [](double a) { return 250 + 230 * a; };
  std::ofstream svg(path);
  svg << "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 500 540' font-family='sans-serif' "
         "font-size='14'>\n"
         "<rect width='500' height='540' fill='white'/>\n"
         "<text x='20' y='503'>Colour: class. Dark or light: the expert that the gate prefers.</text>\n"
         "<text x='20' y='525'>Line: both experts are equally probable.</text>\n"
         "<clipPath id='c'><rect x='20' y='20' width='460' height='460'/></clipPath>\n";
  for (Index n = 0; n < points.x.count(); ++n) {
    const bool one = points.label[static_cast<std::size_t>(n)] == 1, first = tape.p[n][0] > 0.5;
    svg << "<circle cx='" << px(points.x[n][0]) << "' cy='" << px(-points.x[n][1]) << "' r='4' fill='"
        << (one ? (first ? "#1f6fb4" : "#9cc9ee") : (first ? "#c8501e" : "#f3b899")) << "'/>\n";
  }
  // w . x + b = 0 with w the difference of the gate's rows.
  const auto& gate = experts.gate;
  const double a = gate.weight[0] - gate.weight[2], b = gate.weight[1] - gate.weight[3],
               c = gate.bias[0] - gate.bias[1];
  const double norm = std::hypot(a, b), x0 = -a * c / (norm * norm), y0 = -b * c / (norm * norm);
  svg << "<line clip-path='url(#c)' stroke='black' stroke-width='2' x1='" << px(x0 - 3 * b / norm) << "' y1='"
      << px(-(y0 + 3 * a / norm)) << "' x2='" << px(x0 + 3 * b / norm) << "' y2='" << px(-(y0 - 3 * a / norm))
      << "'/>\n<rect x='20' y='20' width='460' height='460' fill='none' stroke='#888'/>\n</svg>\n";
}

}  // namespace

int main(int argc, char** argv) {
  const Points train(1000, 1), test(4000, 2);
  std::printf("one linear model: %.1f %% of 4000 held-out points\n", linear_accuracy(train, test));
  std::vector<double> right;
  Experts::Tape tape;
  Tokens<2, double> y;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    predict(trained(train, seed, 800), test, tape, y);
    right.push_back(accuracy(test, y));
  }
  std::sort(right.begin(), right.end());
  std::printf("two linear experts and a gate: worst of 10 seeds %.1f %%, median %.1f %%\n", right[0],
              (right[4] + right[5]) / 2);
  std::puts("passes until the mean log-likelihood is -0.15, at most 1000, of 10 seeds");
  for (const bool by_em : {true, false}) {
    std::printf("  %-22s", by_em ? "EM" : "gradient with Adam");
    for (std::uint64_t seed = 1; seed <= 10; ++seed)
      std::printf(" %4d", passes(train, seed, by_em, -0.15, 1000));
    std::puts("");
  }
  const char* const path = argc > 1 ? argv[1] : "two_experts.svg";
  draw(path, train, trained(train, 2, 800));
  std::printf("wrote %s: the gate's partition\n", path);
  return right[0] < 90;
}
