#pragma once
// Gradients of a loss of a tree of weights and its inputs against central differences.
#include <moegpt/core/fields.hpp>

#include <cmath>

// The largest relative error |g - g'| / |g'| of a tensor: of dx and of each weight. loss(): of the weights
// and x as they are.
template <class Tree, int D, class F>
double worst_gradient_error(Tree& tree, Tree& grad, moegpt::Tokens<D, double>& x,
                            const moegpt::Tokens<D, double>& dx, const F& loss) {
  const double step = 1e-5;
  double worst = 0;
  const auto compare = [&](double* values, const double* gradient, moegpt::Index count) {
    double error = 0, norm = 0;
    for (moegpt::Index i = 0; i < count; ++i) {
      const double before = values[i];
      values[i] = before + step;
      const double above = loss();
      values[i] = before - step;
      const double expected = (above - loss()) / (2 * step);
      values[i] = before;
      error += (gradient[i] - expected) * (gradient[i] - expected);
      norm += expected * expected;
    }
    worst = std::max(worst, std::sqrt(error / (norm + 1e-12)));
  };
  moegpt::for_each_weight_of_kind(
      [&](moegpt::Kind kind, auto& w, auto& g) {
        if (kind != moegpt::Kind::buffer) compare(w.data(), g.data(), w.size());
      },
      tree, grad);
  compare(x[0], dx[0], x.count() * D);
  return worst;
}
