#pragma once
// Gradient clipping by global norm (Pascanu et al. 2013).
#include <moegpt/core/runs.hpp>
#include <moegpt/kernels/reduce.hpp>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Sum of squares in double; chunks are summed in a fixed order.
template <class T>
[[gnu::noinline]] double squared_norm(const Exec& exec, std::span<const WeightRun<T>> runs) {
  constexpr Index most = 1024;  // pieces
  const Index lines = runs.back().end;
  const Pieces pieces{lines, std::max<Index>(2048, (lines + most - 1) / most)};
  double part[most];
  exec.parallel_for(pieces.size(), [&](Index i) {
    double sum = 0;
    for_each_run(runs, pieces[i], [&](const WeightRun<T>& run, Rows r) {
      sum += kernels::squared_norm(run.data + r.first, r.count);
    });
    part[i] = sum;
  });
  double sum = 0;
  for (Index i = 0; i < pieces.size(); ++i) sum += part[i];
  return sum;
}

// Square root of the sum of squares over all trainable weights.
template <class Tree>
double global_norm(const Tree& gradient, const Exec& exec = {}) {
  using T = const walk::Scalar<const Tree>;
  double sum = 0;
  for_each_batch_of_runs<T>(
      gradient, [](Kind kind, const auto&) { return kind != Kind::buffer; },
      [&](std::span<const WeightRun<T>> runs) { sum += squared_norm(exec, runs); });
  return std::sqrt(sum);
}

// Factor for a gradient of this norm so that its norm is at most `limit` (PyTorch's formula). limit <= 0: no
// clipping. Throws std::runtime_error if the norm is not finite, because such a step would make weights and
// moments NaN; std::invalid_argument for a negative norm and for a limit that is NaN.
inline double clip_scale(double norm, double limit) {
  if (!std::isfinite(norm))
    throw std::runtime_error("moegpt: the norm of the gradient is " + std::to_string(norm) +
                             ": skip this step, or lower the learning rate");
  check(norm >= 0, "clip_scale: the norm is ", norm, ", expected 0 or more");
  check(!std::isnan(limit), "clip_scale: the limit is NaN, expected a number above 0, or 0 for no clipping");
  return limit > 0 && norm + 1e-6 > limit ? limit / (norm + 1e-6) : 1;
}

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
