// Each unit must keep its own code: build_info has its flags, and its product is right.
#include "report.hpp"

#include <cstdio>
#include <cstring>
#include <set>

#define UNIT(name, simd, openmp) Report report_##name();
#include "units.inc"
#undef UNIT

static int faults = 0;
static void expect(bool holds, const char* unit, const char* what) {
  if (holds) return;
  std::printf("%s: %s\n", unit, what);
  ++faults;
}

static std::vector<double> exact_product() {
  const int in = 24, out = 40, tokens = 37;
  std::vector<double> y(static_cast<std::size_t>(tokens * out));
  for (int t = 0; t < tokens; ++t)
    for (int o = 0; o < out; ++o)
      for (int i = 0; i < in; ++i)
        y[static_cast<std::size_t>(t * out + o)] += ((o * in + i) % 7 - 3) * ((t * in + i) % 5 - 2);
  return y;
}

static void examine(const char* unit, const Report& report, const char* simd, bool openmp) {
  std::printf("%-16s %-7s %s OpenMP, %d workers\n", unit, report.simd.c_str(),
              report.openmp ? "with   " : "without", report.most_workers_seen);
  expect(simd[0] == 0 || report.simd == simd, unit, "build_info() names another instruction set");
  expect(report.openmp == openmp, unit, "build_info() is wrong about OpenMP");
  expect(openmp || report.most_workers_seen == 1, unit, "more than one worker without OpenMP");
  expect(report.product == exact_product(), unit, "its product is wrong");
}

int main() {
  std::set<std::string> kinds;
  int units = 0;
#define UNIT(name, level, with_openmp)                                     \
  if (std::strcmp(level, "avx2") != 0 || __builtin_cpu_supports("avx2")) { \
    const Report report = report_##name();                                 \
    examine(#name, report, level, with_openmp);                            \
    kinds.insert(report.simd + (report.openmp ? " openmp" : " serial"));   \
    ++units;                                                               \
  }
#include "units.inc"
#undef UNIT
  std::printf("%d units, %d kinds\n", units, static_cast<int>(kinds.size()));
  expect(units >= 2 && kinds.size() >= 1, "all", "too few units");
  return faults == 0 ? 0 : 1;
}
