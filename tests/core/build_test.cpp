#include <moegpt/core/build.hpp>
#include <moegpt/core/exec.hpp>

#include "support/catch.hpp"

#include <typeinfo>

using namespace moegpt;

TEST_CASE("build_info states how this unit was compiled") {
  constexpr BuildInfo info = build_info();
  CHECK(std::string(info.version) == MOEGPT_VERSION);
  CHECK(std::string(info.compiler) == __VERSION__);
  CHECK(info.eigen[0] * 100 + info.eigen[1] >= 304);
#ifdef _OPENMP
  CHECK(info.openmp);
#else
  CHECK_FALSE(info.openmp);
#endif
#ifdef MOEGPT_USE_BLAS
  CHECK(info.blas);
#else
  CHECK_FALSE(info.blas);
#endif
#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)
  CHECK(std::string(info.simd) == "avx2");
#endif
}

TEST_CASE(
    "type names contain the instruction set, OpenMP and BLAS, so units with other flags can be linked") {
  const std::string name = typeid(Exec).name();
  const BuildInfo info = build_info();
  const std::string threads = info.openmp ? "_openmp" : "_serial";
  const std::string expected = info.simd + threads + (info.blas ? "_blas" : "");
  CAPTURE(name);
  CHECK(name.find(expected) != std::string::npos);
}
