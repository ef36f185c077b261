#!/bin/bash
# example.sh MPIRUN PROGRAM: the example's losses on 1, 2 and 4 ranks are equal as printed.
set -euo pipefail
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
timeout 60 "$1" -n 2 true || exit 77   # it starts no processes here
one=$(timeout 120 "$1" -n 1 "$2")
echo "$one"
[[ $one == *"step 100"* ]]
for ranks in 2 4; do
  printed=$(timeout 120 "$1" -n "$ranks" "$2")
  [[ $printed == "$one" ]] || { echo "$ranks ranks: $printed" >&2; exit 1; }
done
