#pragma once
// Learning-rate schedule.
#include <moegpt/core/check.hpp>

#include <cmath>
#include <cstdint>

namespace moegpt {
inline namespace MOEGPT_BUILD {

// Linear warm-up to `peak`, then a cosine to `minimum` at step `steps` (Loshchilov, Hutter 2017; as in
// nanoGPT). std::invalid_argument unless 0 <= minimum <= peak and neither warmup, steps nor the step is
// negative.
struct WarmupCosine {
  double peak = 1e-3, minimum = 1e-4;
  std::int64_t warmup = 100, steps = 5000;

  double operator()(std::int64_t step) const {
    check(minimum >= 0 && minimum <= peak && std::isfinite(peak), "WarmupCosine: peak is ", peak,
          " and minimum ", minimum, ", expected 0 <= minimum <= peak: give both");
    check(warmup >= 0 && steps >= 0 && step >= 0, "WarmupCosine: step ", step, ", warmup ", warmup,
          ", steps ", steps, ": none may be negative");
    if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup + 1);
    if (step >= steps) return minimum;
    const double done = static_cast<double>(step - warmup) / static_cast<double>(steps - warmup);
    return minimum + 0.5 * (1 + std::cos(3.141592653589793 * done)) * (peak - minimum);
  }
};

}  // namespace MOEGPT_BUILD
}  // namespace moegpt
