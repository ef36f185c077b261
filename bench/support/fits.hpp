#pragma once
// Least squares, and the scaling laws that the experiments fit.
#include <moegpt/core/check.hpp>

#include <array>
#include <cmath>
#include <vector>

namespace bench {

// w with the least sum of (y - w . x)^2, by the normal equations. Throws std::invalid_argument if there are
// fewer points than weights or x is not independent.
template <std::size_t P>
std::array<double, P> least_squares(const std::vector<std::array<double, P>>& x,
                                    const std::vector<double>& y) {
  moegpt::check(x.size() == y.size() && x.size() >= P, "a fit of ", P, " weights to ", x.size(),
                " points and ", y.size(), " values: give at least ", P, " of each");
  std::array<std::array<double, P + 1>, P> a{};
  for (std::size_t n = 0; n < x.size(); ++n)
    for (std::size_t i = 0; i < P; ++i) {
      for (std::size_t j = 0; j < P; ++j) a[i][j] += x[n][i] * x[n][j];
      a[i][P] += x[n][i] * y[n];
    }
  double largest = 0;
  for (std::size_t i = 0; i < P; ++i) largest = std::max(largest, a[i][i]);
  for (std::size_t i = 0; i < P; ++i) {  // Gauss-Jordan with pivots
    std::size_t pivot = i;
    for (std::size_t r = i + 1; r < P; ++r)
      if (std::abs(a[r][i]) > std::abs(a[pivot][i])) pivot = r;
    std::swap(a[i], a[pivot]);
    moegpt::check(std::abs(a[i][i]) > 1e-12 * largest, "a fit of dependent values: take fewer weights");
    for (std::size_t r = 0; r < P; ++r) {
      if (r == i) continue;
      const double factor = a[r][i] / a[i][i];
      for (std::size_t c = i; c <= P; ++c) a[r][c] -= factor * a[i][c];
    }
  }
  std::array<double, P> w{};
  for (std::size_t i = 0; i < P; ++i) w[i] = a[i][P] / a[i][i];
  return w;
}

// A model of N weights per token with E experts, and its loss.
struct LossPoint {
  double weights, experts, loss;
};

struct Residuals {
  double root_mean_square = 0, largest = 0;  // of log L
};
template <class Law>
Residuals residuals_of(const Law& law, const std::vector<LossPoint>& points) {
  Residuals r;
  for (const LossPoint& p : points) {
    const double error = std::log(p.loss / law(p.weights, p.experts));
    r.root_mean_square += error * error / static_cast<double>(points.size());
    r.largest = std::max(r.largest, std::abs(error));
  }
  r.root_mean_square = std::sqrt(r.root_mean_square);
  return r;
}

// log L = a log N + d (Kaplan et al. 2020, without a floor).
struct PowerLaw {
  double a = 0, d = 0;
  double operator()(double weights, double = 1) const { return std::exp(a * std::log(weights) + d); }
};
inline PowerLaw fit_power_law(const std::vector<LossPoint>& points) {
  std::vector<std::array<double, 2>> x;
  std::vector<double> y;
  for (const LossPoint& p : points) x.push_back({std::log(p.weights), 1}), y.push_back(std::log(p.loss));
  const auto w = least_squares<2>(x, y);
  return {w[0], w[1]};
}

// Clark et al. 2022: log L = a log N + b log S + c log N log S + d, with S of E experts from
//   1/S = 1/(E - 1 + (1/start - 1/most)^-1) + 1/most,   S(1) = start, S(infinity) = most
// N: weights of the dense model.
struct RoutedLaw {
  double a = 0, b = 0, c = 0, d = 0, start = 1, most = 1e9;
  double saturated(double experts) const {
    return 1 / (1 / (experts - 1 + 1 / (1 / start - 1 / most)) + 1 / most);
  }
  double operator()(double weights, double experts) const {
    const double n = std::log(weights), s = std::log(saturated(experts));
    return std::exp(a * n + b * s + c * n * s + d);
  }
};
// start and most by search on a grid, the rest by least squares in the logarithm of the loss. `most` at the
// end of its grid means that no saturation was found.
inline RoutedLaw fit_routed_law(const std::vector<LossPoint>& points) {
  RoutedLaw best;
  double least = INFINITY;
  for (const double start : {1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0})
    for (double most = 2 * start; most < 4000; most *= 1.1) {
      RoutedLaw law{.start = start, .most = most};
      std::vector<std::array<double, 4>> x;
      std::vector<double> y;
      for (const LossPoint& p : points) {
        const double n = std::log(p.weights), s = std::log(law.saturated(p.experts));
        x.push_back({n, s, n * s, 1});
        y.push_back(std::log(p.loss));
      }
      std::array<double, 4> w;
      try {
        w = least_squares<4>(x, y);
      } catch (const std::invalid_argument&) {
        continue;
      }
      law.a = w[0], law.b = w[1], law.c = w[2], law.d = w[3];
      const double error = residuals_of(law, points).root_mean_square;
      if (error < least) least = error, best = law;
    }
  return best;
}

}  // namespace bench
