// A message of the library's own stands where a page of template errors would.
// expect: moegpt with OpenMP needs EIGEN_DONT_PARALLELIZE
#ifdef FAULT
#undef EIGEN_DONT_PARALLELIZE
#define _OPENMP 201511
#endif
#include <moegpt/core/build.hpp>
