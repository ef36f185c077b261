#!/bin/bash
# Builds and runs the benchmarks. Use a quiet machine: measurements are interleaved with probes of the peak, but load of
# other processes still lowers the figures.
#   bench/run.sh              every program in bench/, about ten minutes; arguments go to Google Benchmark
#   bench/run.sh scorecard    one line for each goal: figure, goal, ok or short
#   bench/run.sh peers        training of the same models in PyTorch, interleaved with moegpt
#   bench/run.sh peers generation   generation in PyTorch and llama.cpp, likewise: bench/peers/README.md
#   bench/run.sh collapse     do experts collapse, and what prevents it? trains small models, twenty minutes
# Experiments of docs/evidence.md. Each goes on where it was stopped, and remakes its tables and pictures from
# docs/evidence/*.jsonl with --report; --help lists the options. They read data/ (examples/get_corpus.sh).
#   bench/run.sh recipe          which training configuration has the least loss for a budget of arithmetic?
#   bench/run.sh scaling         loss by number of experts and size, and fits of scaling laws
#   bench/run.sh mixture_against_dense   compute that a mixture saves, and the weights that it costs
#   bench/run.sh expert_choice   expert choice and top-2 by number of experts
#   bench/run.sh byte_pairs      a vocabulary of byte pairs against characters at equal CPU time
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source cmake/need_packages.sh
root=$PWD

build() {   # build FOLDER TARGETS... -- CMAKE OPTIONS...
  local folder=$1 targets=()
  shift
  while (( $# )) && [[ $1 != -- ]]; do targets+=("$1"); shift; done
  [[ ${1-} == -- ]] && shift
  cmake --preset bench -B "$folder" "$@" > "$folder.log" 2>&1 || { cat "$folder.log" >&2; exit 1; }
  cmake --build "$folder" --parallel "$(compile_jobs)" ${targets[@]+--target "${targets[@]}"} >> "$folder.log" 2>&1 ||
    { tail -40 "$folder.log" >&2; exit 1; }
}

need_packages "the benchmarks" g++=g++ cmake=cmake ninja-build=ninja libeigen3-dev=/usr/include/eigen3/Eigen/Core \
  nlohmann-json3-dev=/usr/include/nlohmann/json.hpp libcli11-dev=/usr/include/CLI/CLI.hpp \
  libbenchmark-dev=/usr/include/benchmark/benchmark.h
mkdir -p build
bin=build/bench/bench

case ${1-} in
scorecard)
  echo "== building (two to four minutes the first time)" >&2
  build build/bench bench_scorecard_gemm bench_scorecard_models
  have_clang=0
  if command -v clang++ > /dev/null; then
    have_clang=1
    build build/bench-clang bench_scorecard_gemm -- -DCMAKE_CXX_COMPILER=clang++
  fi
  echo "== measuring (about ten minutes; leave the machine alone)" >&2
  echo "Date         $(date -u '+%Y-%m-%d %H:%M UTC'), commit $(git rev-parse --short HEAD 2> /dev/null || echo unknown)"
  echo "Machine      $(lscpu | sed -n 's/^Model name: *//p'), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg)"
  echo "Compilers    $(g++ --version | head -1)$( (( have_clang )) && clang++ --version | head -1 | sed 's/^/; /')"
  echo "Threads      one, unless a line says two; flags -O3 -march=native"
  $bin/scorecard_models machine
  $bin/scorecard_gemm
  if (( have_clang )); then
    build/bench-clang/bench/scorecard_gemm --peak-only
  else
    printf '\n  clang++ not found: its rows are omitted\n'
  fi
  $bin/scorecard_models steps layers generation threads busy
  $bin/scorecard_models memory
  printf '\nElsewhere\n'
  echo "  against PyTorch and llama.cpp                    ./bench/run.sh peers; ./bench/run.sh peers generation"
  echo "  invariants 5 and 6, no allocation in a step, gradcheck, parity   ./tests/run.sh"
  ;;
peers)
  shift
  echo "== building" >&2
  build build/bench
  exec bench/peers/run.sh "$root/$bin" "$@"
  ;;
collapse | recipe | scaling | mixture_against_dense | expert_choice | byte_pairs)
  experiment=$1
  shift
  echo "== building" >&2
  build build/bench "bench_$experiment"
  exec "$bin/$experiment" "$@"
  ;;
*)
  echo "== building (two to four minutes the first time)" >&2
  build build/bench
  for question in machine gemm expert_batch moe_vs_dense experts_sweep routing attention head adam step generation; do
    echo
    echo "== $question: $(sed -n '1s,^// *,,p' "bench/$question.cpp")"
    $bin/$question "$@"
  done
  ;;
esac
