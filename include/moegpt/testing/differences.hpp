#pragma once
// Derivatives by differences: what gradcheck compares backward with. A derivative is compared with
//   (8 (f(w + h) - f(w - h)) - (f(w + 2h) - f(w - 2h))) / (12 h),
// whose own error is about h^4 + 1e-16 / h. Where two step sizes disagree, f has a kink or a top-k tie nearby.
#include <moegpt/core/fields.hpp>
#include <moegpt/moe/routing_context.hpp>

#include <algorithm>
#include <cstdio>
#include <vector>

namespace moegpt::inline MOEGPT_BUILD {

struct GradcheckOptions {
  std::uint64_t seed = 1;
  Pass pass{.shape = {2, 5}};
  RoutingContext routing{};   // to which the pass then points
  double tolerance = 1e-6;    // of max|a - n| / max(max|a|, max|n|, 1e-6), per tensor
  double spread = 0.5;        // standard deviation of weights and inputs
  int per_tensor = 64;        // numbers examined in each tensor, evenly spread: all, or at least so many
  int draws = 20;             // before giving up on finding a smooth point
};

struct GradcheckReport {
  bool ok = true;
  double worst = 0;           // largest relative error of a tensor
  std::string where;          // its path
  std::string complaint;      // empty if ok: what is wrong, with both derivatives
  explicit operator bool() const { return ok; }
};

namespace testing {

// One tensor under examination: numbers that f depends on and what backward said of them.
struct Suspect {
  std::string path;
  double* value;
  const double* derivative;
  Index size;
};

enum class Verdict { smooth, kink };

// Compares all suspects with differences of f. Returns kink if some point is not smooth.
template <class F>
Verdict compare(F&& f, const std::vector<Suspect>& suspects, const GradcheckOptions& options, GradcheckReport& report) {
  auto difference = [&](double& x, double h) {
    const double x0 = x;
    auto at = [&](double d) { x = x0 + d; return f(); };
    const double near = at(h) - at(-h), far = at(2 * h) - at(-2 * h);
    x = x0;
    return (8 * near - far) / (12 * h);
  };
  for (const Suspect& s : suspects) {
    double scale = 1e-6, error = 0, found = 0, expected = 0;
    for (Index i = 0; i < s.size; ++i) scale = std::max(scale, std::abs(s.derivative[i]));
    const Index step = std::max<Index>(1, s.size / options.per_tensor);
    for (Index i = 0; i < s.size; i += step) {
      const double h = 1e-4 * std::max(1.0, std::abs(s.value[i]));
      const double numeric = difference(s.value[i], h), off = std::abs(numeric - s.derivative[i]);
      scale = std::max(scale, std::abs(numeric));
      if (!(off <= options.tolerance * scale) &&
          std::abs(numeric - difference(s.value[i], h / 2)) > 0.1 * options.tolerance * scale)
        return Verdict::kink;
      if (!(off <= error)) error = off, found = s.derivative[i], expected = numeric;
    }
    const double relative = error / scale;
    if (!(relative <= report.worst)) report.worst = relative, report.where = s.path;
    if (!(relative <= options.tolerance) && report.ok) {
      report.ok = false;
      char text[120];
      std::snprintf(text, sizeof text, ": backward says %.9g, differences say %.9g (relative error %.1e)", found,
                    expected, relative);
      report.complaint = s.path + text;
    }
  }
  return Verdict::smooth;
}

// A routing context whose objective holds detached quantities, and the pass with it: for differences.
struct HeldPass {
  RoutingContext routing;
  Pass pass;
  explicit HeldPass(const Pass& whole) : routing(routing_of(whole)), pass(whole) {
    routing.objective.hold_detached = true;
    pass.routing = &routing;
  }
  HeldPass(const HeldPass&) = delete;   // its pass points into it
};

// Beside a model there is no loss unless one is given.
struct NoLossOfWeights {
  template <class Model>
  double operator()(const Model&, Model*) const { return 0; }
};

inline void complain(GradcheckReport& report, const std::string& text) {
  if (report.ok) report.complaint = text;
  report.ok = false;
}

// Refuses options with which a check would pass, or fail, whatever backward does.
inline void check_gradcheck(const GradcheckOptions& o) {
  const auto positive = [](double x) { return x > 0 && std::isfinite(x); };
  check(o.pass.shape.batch >= 1 && o.pass.shape.length >= 1, "gradcheck: pass.shape is ", o.pass.shape.batch, " x ",
        o.pass.shape.length, ": both must be at least 1");
  check(positive(o.tolerance), "gradcheck: tolerance is ", o.tolerance, ", expected a finite number above 0");
  check(positive(o.spread), "gradcheck: spread is ", o.spread, ", expected a finite number above 0");
  check(o.per_tensor >= 1 && o.draws >= 1, "gradcheck: per_tensor is ", o.per_tensor, " and draws ", o.draws,
        ": both must be at least 1");
}

// Repeats `examine(report, rng)` until it finds a smooth point.
template <class F>
GradcheckReport until_smooth(const GradcheckOptions& options, F&& examine) {
  check_gradcheck(options);
  for (int draw = 0; draw < options.draws; ++draw) {
    GradcheckReport report;
    Rng rng{Key{options.seed}.with(Purpose::check, static_cast<std::uint64_t>(draw))};
    if (examine(report, rng) == Verdict::smooth) return report;
  }
  GradcheckReport report;
  complain(report, "no smooth point in " + std::to_string(options.draws) + " draws: the function jumps, or its "
                   "routing margin is too small for differences");
  return report;
}

}  // namespace testing

}  // namespace moegpt::inline MOEGPT_BUILD
