#pragma once
// gradcheck over the three seeds that every layer must pass.
#include "catch.hpp"

#include <moegpt/testing/gradcheck.hpp>

inline void require_small_error(std::uint64_t seed, const moegpt::GradcheckReport& report) {
  CAPTURE(seed, report.where, report.message);
  CHECK(report.ok);
  CHECK(report.worst <= 1e-6);  // relative, per tensor, in double
}
template <class Checked>
void gradcheck_three_seeds(moegpt::GradcheckOptions options = {}) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    options.seed = seed;
    require_small_error(seed, moegpt::gradcheck<Checked>(options));
  }
}
// The same for a layer with a memory of M features.
template <class Checked, int M>
void gradcheck_three_seeds(moegpt::GradcheckOptions options = {},
                           const moegpt::GradcheckMemory& memory = {}) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    options.seed = seed;
    require_small_error(seed, moegpt::gradcheck<Checked, M>(options, memory));
  }
}
