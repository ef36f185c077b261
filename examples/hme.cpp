// A hierarchical mixture of experts (Jordan and Jacobs 1994): expectation maximisation fits a tree of gates
// with eight lines as its leaves to a curve whose slope and noise change. Writes a picture: hme [PICTURE.svg]
#include <moegpt/classical/hierarchical_mixture.hpp>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <vector>

using namespace moegpt;

namespace {

using Line = HierarchicalMixture<1, 1, Leaf::gaussian, double>;  // a tree of one leaf
using Tree = HierarchicalMixture<1, 1, Leaf::gaussian, double, 2, 2, 2>;

struct Points {
  Tokens<1, double> x, y;
  // y is flat, then falls, rises and dies away; the noise grows where it moves.
  Points(Index count, std::uint64_t seed) : x(count), y(count) {
    const Key key{mix64(seed)};
    for (Index n = 0; n < count; ++n) {
      const auto i = static_cast<std::uint64_t>(3 * n);
      const double a = *x[n] = 2 * key.uniform(i) - 1;
      const double normal =
          std::sqrt(-2 * std::log(1 - key.uniform(i + 1))) * std::cos(6.2831853 * key.uniform(i + 2));
      const double moving = a < -0.4 ? 0 : std::exp(-1.5 * (a + 0.4));
      *y[n] = -moving * std::sin(7 * (a + 0.4)) + (0.03 + 0.2 * moving * (a > -0.4)) * normal;
    }
  }
};

// Weights uniform in -3 .. 3: gates begin with borders in different places. Variances 1.
template <class Mixture>
void spread(Mixture& mixture, std::uint64_t seed) {
  std::uint64_t next = 1000 * seed;
  for_each_weight_of_kind(
      [&](Kind kind, auto& w) {
        for (Index i = 0; i < w.size(); ++i) w[i] = kind == Kind::buffer ? 1 : 6 * Key{3}.uniform(next++) - 3;
      },
      mixture);
}

// The mixture at each x: mean and variance of y, and the likeliest leaf.
struct Prediction {
  double mean = 0, square = 0, share = 0;
  int leaf = 0;
  double deviation() const { return std::sqrt(square - mean * mean); }
};
// Adds the leaves of `node`, which is reached with probability p[n]; `leaf` counts them.
template <class Node>
void add_leaves(const Node& node, const typename Node::Tape& tape, const std::vector<double>& p, int& leaf,
                std::vector<Prediction>& all) {
  if constexpr (Node::leaves == 1) {
    for (std::size_t n = 0; n < all.size(); ++n) {
      const double m = *tape.out[static_cast<Index>(n)];
      all[n].mean += p[n] * m, all[n].square += p[n] * (m * m + node.variance[0]);
      if (p[n] > all[n].share) all[n].share = p[n], all[n].leaf = leaf;
    }
    ++leaf;
  } else {
    for (std::size_t c = 0; c < node.children.size(); ++c) {
      std::vector<double> of_child(p.size());
      for (std::size_t n = 0; n < p.size(); ++n) of_child[n] = p[n] * tape.g[static_cast<Index>(n)][c];
      add_leaves(node.children[c], tape.children[c], of_child, leaf, all);
    }
  }
}
std::vector<Prediction> predict(const Tree& tree, In<1, double> x) {
  Tree::Tape tape;
  tree.forward(x, {}, tape, {.shape = {1, x.count}});
  std::vector<Prediction> all(static_cast<std::size_t>(x.count));
  int leaf = 0;
  add_leaves(tree, tape, std::vector<double>(all.size(), 1), leaf, all);
  return all;
}

template <class Mixture>
double mean_log_likelihood(const Mixture& mixture, const Points& points) {
  typename Mixture::Tape tape;
  mixture.forward(points.x, points.y, tape, {.shape = {1, points.x.count()}});
  return total_log_likelihood(tape) / static_cast<double>(points.x.count());
}

// Prints the mean log-likelihood of the points after 1, 10, 30 and 100 passes.
template <class Mixture>
Mixture fitted(const Points& points, std::uint64_t seed) {
  Mixture mixture;
  spread(mixture, seed);
  typename Mixture::Tape tape;
  for (int pass = 1; pass <= 100; ++pass) {
    em_pass(mixture, In<1, double>(points.x), In<1, double>(points.y), tape);
    if (pass == 1 || pass == 10 || pass == 30 || pass == 100)
      std::printf(" %7.3f", mean_log_likelihood(mixture, points));
  }
  std::puts("");
  return mixture;
}

// Points by their likeliest leaf, the mean, and a band of two standard deviations.
void draw(const char* path, const Tree& tree, const Points& points) {
  static constexpr const char* colours[8] = {"#1f6fb4", "#c8501e", "#2c8c4a", "#8450a8",
                                             "#b8860b", "#2a9d9d", "#c03a6b", "#6b6b6b"};
  const auto px = [](double a) { return 330 + 300 * a; };
  const auto py = [](double b) { return 190 - 110 * b; };
  Tokens<1, double> grid(301);
  for (Index n = 0; n < grid.count(); ++n) *grid[n] = -1 + static_cast<double>(n) / 150;
  const auto curve = predict(tree, grid), at_points = predict(tree, points.x);
  std::ofstream svg(path);
  svg << "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 660 420' font-family='sans-serif' "
         "font-size='14'>\n"
         "<rect width='660' height='420' fill='white'/>\n<polygon fill='#e4e9ee' points='";
  for (const int side : {1, -1})
    for (std::size_t i = 0; i < curve.size(); ++i) {
      const std::size_t n = side > 0 ? i : curve.size() - 1 - i;
      svg << px(*grid[static_cast<Index>(n)]) << ',' << py(curve[n].mean + 2 * side * curve[n].deviation())
          << ' ';
    }
  svg << "'/>\n";
  for (std::size_t n = 0; n < at_points.size(); ++n)
    svg << "<circle cx='" << px(*points.x[static_cast<Index>(n)]) << "' cy='"
        << py(*points.y[static_cast<Index>(n)]) << "' r='3' fill='" << colours[at_points[n].leaf] << "'/>\n";
  svg << "<polyline fill='none' stroke='black' stroke-width='2' points='";
  for (std::size_t n = 0; n < curve.size(); ++n)
    svg << px(*grid[static_cast<Index>(n)]) << ',' << py(curve[n].mean) << ' ';
  svg << "'/>\n<text x='30' y='382'>Colour: the leaf that the gates prefer. Line: mean of the "
         "mixture.</text>\n"
         "<text x='30' y='404'>Grey: two standard deviations of the mixture on each side.</text>\n</svg>\n";
}

}  // namespace

int main(int argc, char** argv) {
  const Points train(500, 1), test(2000, 2);
  std::printf("mean log-likelihood of the training points after 1, 10, 30 and 100 passes\n  one line    ");
  const auto line = fitted<Line>(train, 1);
  Tree best;
  double most = -INFINITY;
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    std::printf("  tree, seed %d", static_cast<int>(seed));
    Tree tree = fitted<Tree>(train, seed);
    const double likelihood = mean_log_likelihood(tree, train);
    if (likelihood > most) most = likelihood, best = std::move(tree);
  }
  const double of_line = mean_log_likelihood(line, test), of_tree = mean_log_likelihood(best, test);
  std::printf("held-out points: one line %.3f, the best tree %.3f\n", of_line, of_tree);
  const char* const path = argc > 1 ? argv[1] : "hme.svg";
  draw(path, best, train);
  std::printf("wrote %s: points, leaves and the spread of the mixture\n", path);
  return of_tree < of_line + 1;
}
