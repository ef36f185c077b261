#pragma once
#include <string>
#include <vector>

// What a unit says about itself; plain types only, since this crosses units with different flags.
struct Report {
  std::string simd;
  bool openmp;
  int most_workers_seen;
  std::vector<double> product;  // a product whose exact result is known: see unit.cpp
};
