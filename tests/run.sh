#!/bin/bash
# Builds and runs all tests. Arguments go to ctest: tests/run.sh -L fast
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source cmake/need_packages.sh

need_packages "the tests" g++=g++ cmake=cmake ninja-build=ninja libeigen3-dev=/usr/include/eigen3/Eigen/Core \
  nlohmann-json3-dev=/usr/include/nlohmann/json.hpp libcli11-dev=/usr/include/CLI/CLI.hpp \
  catch2=/usr/include/catch2 libpcre2-dev=/usr/include/pcre2.h pkg-config=pkg-config
if can_install; then   # optional: without an MPI its tests are skipped
  (need_packages "the tests of MPI" libopenmpi-dev=mpicxx.openmpi openmpi-bin=mpirun.openmpi libmpich-dev=mpicxx.mpich \
    mpich=mpirun.mpich) || echo "MPI could not be installed: its tests are skipped"
fi

echo "== building the tests"
cmake --preset ci
cmake --build --preset ci --parallel "$(compile_jobs)"
echo "== running the tests"
if (( $# )); then
  exec ctest --preset ci "$@"
fi
# Not what it costs to compile, which takes two minutes: tests/run.sh -L budget --verbose
ctest --preset ci -LE budget
