# cmake -DCXX=compiler -DFLAGS=file.rsp -DROOT=dir -DWORK_DIR=dir [-DOPENMP=-fopenmp] [-DPROGRAMS=ON]
#       [-DMPI_INCLUDE=dir] -P alone.cmake
cmake_policy(VERSION 3.22)

# Eigen is read once, precompiled; a header that does not reach Eigen by itself is compiled without it.
set(eigen "${WORK_DIR}/eigen.hpp")
file(WRITE "${eigen}" "#include <Eigen/Core>\n")
execute_process(COMMAND "${CXX}" "@${FLAGS}" ${OPENMP} -x c++-header "${eigen}" -o "${eigen}.gch"
  RESULT_VARIABLE result ERROR_VARIABLE diagnostics)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "Eigen does not compile:\n${diagnostics}")
endif()

file(GLOB_RECURSE headers "${ROOT}/include/moegpt/*.hpp")
if(MPI_INCLUDE)
  set(mpi -isystem "${MPI_INCLUDE}")
else()
  message("skipped: dist/mpi.hpp, because there is no MPI")
  list(FILTER headers EXCLUDE REGEX "/dist/mpi.hpp$")
  set(mpi "")
endif()
set(programs "")
if(PROGRAMS)
  # Of the benchmarks those that do not need Google Benchmark.
  file(GLOB programs "${ROOT}/examples/*.cpp" "${ROOT}/tests/budget/shapes.cpp" "${ROOT}/bench/scorecard/*.cpp"
    "${ROOT}/bench/experiments/*.cpp" "${ROOT}/bench/support/*.cpp")
endif()
set(failed 0)
set(count 0)
foreach(file IN LISTS headers programs)
  math(EXPR count "${count} + 1")
  file(STRINGS "${file}" reaches_eigen REGEX "^#include <(moegpt/|Eigen/)")
  set(precompiled "")
  if(reaches_eigen)
    set(precompiled -include "${eigen}")
  endif()
  execute_process(COMMAND "${CXX}" "@${FLAGS}" ${OPENMP} ${mpi} ${precompiled} "-I${ROOT}/bench" -fsyntax-only -x c++
    "${file}"
    RESULT_VARIABLE result ERROR_VARIABLE diagnostics)
  if(NOT result EQUAL 0)
    math(EXPR failed "${failed} + 1")
    message("${file} does not compile alone:\n${diagnostics}")
  endif()
endforeach()
message("${count} files, ${failed} failed")
if(failed OR NOT headers)
  message(FATAL_ERROR "a header must include all it uses")
endif()
