#pragma once
// Numerical derivatives for gradcheck, by central differences of fourth order:
//   (8 (f(w + h) - f(w - h)) - (f(w + 2h) - f(w - 2h))) / (12 h),   error about h^4 + 1e-16 / h.
// If two step sizes disagree, f is not differentiable (a kink, a top-k tie) near w.
#include <moegpt/core/fields.hpp>
#include <moegpt/routing/routing_context.hpp>

#include <algorithm>
#include <cstdio>
#include <vector>

namespace moegpt {
inline namespace MOEGPT_BUILD {

struct GradcheckOptions {
  std::uint64_t seed = 1;
  Pass pass{.shape = {2, 5}};
  RoutingContext routing{};  // used if pass.routing is null
  double tolerance = 1e-6;   // of max|a - n| / max(max|a|, max|n|, 1e-6), per tensor
  double spread = 0.5;       // standard deviation of weights and inputs
  int per_tensor = 64;       // elements checked in each tensor, evenly spread: all, or at least so many
  int draws = 20;            // at most, until a point is differentiable
};

struct GradcheckReport {
  bool ok = true;
  double worst = 0;     // largest relative error of a tensor
  std::string where;    // its path
  std::string message;  // what is wrong, with both derivatives; empty if ok
  explicit operator bool() const { return ok; }
};

namespace testing {

// Variables of f and the derivatives that backward computed for them.
struct TensorUnderTest {
  std::string path;
  double* value;
  const double* derivative;
  Index size;
};

enum class Point { differentiable, not_differentiable };

// Compares the derivatives of all tensors with differences of f, unless f is not differentiable at some
// element.
template <class F>
Point compare(F&& f, const std::vector<TensorUnderTest>& tensors, const GradcheckOptions& options,
              GradcheckReport& report) {
  auto difference = [&](double& x, double h) {
    const double x0 = x;
    auto at = [&](double d) {
      x = x0 + d;
      return f();
    };
    const double near = at(h) - at(-h), far = at(2 * h) - at(-2 * h);
    x = x0;
    return (8 * near - far) / (12 * h);
  };
  for (const TensorUnderTest& s : tensors) {
    double scale = 1e-6, error = 0, found = 0, expected = 0;
    for (Index i = 0; i < s.size; ++i) scale = std::max(scale, std::abs(s.derivative[i]));
    const Index step = std::max<Index>(1, s.size / options.per_tensor);
    for (Index i = 0; i < s.size; i += step) {
      const double h = 1e-4 * std::max(1.0, std::abs(s.value[i]));
      const double numeric = difference(s.value[i], h), off = std::abs(numeric - s.derivative[i]);
      scale = std::max(scale, std::abs(numeric));
      if (!(off <= options.tolerance * scale) &&
          std::abs(numeric - difference(s.value[i], h / 2)) > 0.1 * options.tolerance * scale)
        return Point::not_differentiable;
      if (!(off <= error)) error = off, found = s.derivative[i], expected = numeric;
    }
    const double relative = error / scale;
    if (!(relative <= report.worst)) report.worst = relative, report.where = s.path;
    if (!(relative <= options.tolerance) && report.ok) {
      report.ok = false;
      char text[120];
      std::snprintf(text, sizeof text, ": backward says %.9g, differences say %.9g (relative error %.1e)",
                    found, expected, relative);
      report.message = s.path + text;
    }
  }
  return Point::differentiable;
}

// A routing context whose objective holds detached quantities, and the pass with it: for differences.
struct HeldPass {
  RoutingContext routing;
  Pass pass;
  explicit HeldPass(const Pass& whole) : routing(routing_of(whole)), pass(whole) {
    routing.objective.hold_detached = true;
    pass.routing = &routing;
  }
  HeldPass(const HeldPass&) = delete;  // its pass points into it
};

// Beside a model there is no loss unless one is given.
struct NoLossOfWeights {
  template <class Model>
  double operator()(const Model&, Model*) const {
    return 0;
  }
};

inline void report_failure(GradcheckReport& report, const std::string& text) {
  if (report.ok) report.message = text;
  report.ok = false;
}

// Rejects options with which the outcome would not depend on backward.
inline void check_gradcheck(const GradcheckOptions& o) {
  const auto positive = [](double x) { return x > 0 && std::isfinite(x); };
  check(o.pass.shape.batch >= 1 && o.pass.shape.length >= 1, "gradcheck: pass.shape is ", o.pass.shape.batch,
        " x ", o.pass.shape.length, ": both must be at least 1");
  check(positive(o.tolerance), "gradcheck: tolerance is ", o.tolerance, ", expected a finite number above 0");
  check(positive(o.spread), "gradcheck: spread is ", o.spread, ", expected a finite number above 0");
  check(o.per_tensor >= 1 && o.draws >= 1, "gradcheck: per_tensor is ", o.per_tensor, " and draws ", o.draws,
        ": both must be at least 1");
}

// Repeats check_at(report, rng), which samples a point, until the point is differentiable.
template <class F>
GradcheckReport until_differentiable(const GradcheckOptions& options, F&& check_at) {
  check_gradcheck(options);
  for (int draw = 0; draw < options.draws; ++draw) {
    GradcheckReport report;
    Rng rng{Key{options.seed}.with(Purpose::check, static_cast<std::uint64_t>(draw))};
    if (check_at(report, rng) == Point::differentiable) return report;
  }
  GradcheckReport report;
  report_failure(report, "no differentiable point in " + std::to_string(options.draws) +
                             " draws: the function jumps, or its "
                             "routing margin is too small for differences");
  return report;
}

}  // namespace testing

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
