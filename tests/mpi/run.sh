#!/bin/bash
# run.sh MPIRUN PROGRAM [MPIRUN PROGRAM]: runs of a program on each MPI. All must print the same, and errors on
# one rank must end the job with their message. 77 if an MPI starts no processes here.
set -euo pipefail
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_base_warn_component_unused=0

fail() { echo "$*" >&2; exit 1; }
start() { timeout 120 "$mpirun" -n "$@" 2>&1; }

trains() {  # ROUTER, number of ranks that share the experts, steps; MPICH spins where it waits
  start 2 "$program" train "top k" 2 20
  start 2 "$program" train noisy 2 4
  start 2 "$program" train shared 2 4
  start 2 "$program" train "top k" 1 4
  start 4 "$program" train "top k" 2 4
  start 4 "$program" train "top k" 4 4
}
stops_with() {  # MESSAGE ARGUMENT...
  local message=$1 printed
  shift
  if printed=$(start 2 "$program" "$@"); then fail "$mpirun $*: ended with 0: $printed"; fi
  [[ $printed == *"$message"* ]] || fail "$mpirun $*: expected \"$message\" in: $printed"
}

first=
while (( $# )); do
  mpirun=$1 program=$2
  shift 2
  echo "== $mpirun"
  if ! printed=$(start 2 true); then
    echo "it starts no processes here: $printed"
    exit 77
  fi
  printed=$(trains) || fail "$printed"
  echo "$printed"
  [[ -z $first || $first == "$printed" ]] || fail "the libraries differ: $first"
  first=$printed
  again=$(start 2 "$program" train noisy 2 4)
  [[ $printed == *"$again"* ]] || fail "another run has another hash: $again"
  stops_with "rank 1: moegpt: this rank gives up" throw
  stops_with "moegpt: MPI_Comm_split: " invalid
  stops_with "their number must be a multiple" refuse
  stops_with "forward throws on 2 ranks" not_finite
done
