#pragma once
// gradcheck over the three seeds that every layer must pass.
#include "catch.hpp"

#include <moegpt/testing/gradcheck.hpp>

template <class Checked>
void gradcheck_three_seeds(moegpt::GradcheckOptions options = {}) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    options.seed = seed;
    const moegpt::GradcheckReport report = moegpt::gradcheck<Checked>(options);
    CAPTURE(seed, report.where, report.message);
    CHECK(report.ok);
    CHECK(report.worst <= 1e-6);  // relative, per tensor, in double
  }
}
