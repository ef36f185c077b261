// The library's message replaces many template errors.
// expect: moegpt with OpenMP needs EIGEN_DONT_PARALLELIZE
#ifdef FAULT
#undef EIGEN_DONT_PARALLELIZE
#define _OPENMP 201511
#endif
#include <moegpt/core/build.hpp>
