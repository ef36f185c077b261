#include <moegpt/moegpt.hpp>

#include <cstdio>

#ifndef EIGEN_DONT_PARALLELIZE
#error "the package must carry EIGEN_DONT_PARALLELIZE"
#endif

int main() {
  const auto build = moegpt::build_info();
  std::printf("moegpt %s, %s, %s OpenMP\n", build.version, build.simd, build.openmp ? "with" : "without");
}
