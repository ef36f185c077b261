// Prints its SIMD level and the bits of a product, which differ between levels with and without FMA. A global
// object, an exception and a string show that each level has its own of what the standard library
// instantiates.
#include <moegpt/kernels/gemm.hpp>

#include <cstdio>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

static const std::vector<std::string> expected = {"a global object that was constructed before main"};

int main(int argc, char** argv) {
  using namespace moegpt;
  constexpr Index n = 37;
  std::vector<float> a(n * n), c(n * n);
  for (Index i = 0; i < n * n; ++i) a[static_cast<std::size_t>(i)] = static_cast<float>(i % 101) / 7.0f;
  const MatrixView<const float> m{a.data(), n, n, n};
  kernels::gemm<float>(m, m, {c.data(), n, n, n});
  std::uint64_t hash = 0;
  for (const float x : c) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof x);
    hash = hash * 31 + bits;
  }
  std::cout << build_info().simd << " " << hash << " " << expected.at(0) << " " << argc << " "
            << (argv[0] != nullptr);
  try {
    check(false, "thrown");
  } catch (const std::invalid_argument& error) {
    std::cout << " " << error.what() << std::endl;
  }
}
