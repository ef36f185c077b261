#!/bin/bash
# logging_cost.sh PROGRAM [STEPS]: instructions of 200 training steps with all logs and without, by callgrind. Fails if
# logs cost more than 1 %. Some minutes, so it is no test of the suite. PROGRAM is logging_cost.cpp, compiled for a
# processor that valgrind knows:
#     g++ -std=c++20 -O2 -march=x86-64-v3 -fopenmp -DEIGEN_DONT_PARALLELIZE -Iinclude -isystem /usr/include/eigen3 \
#       tests/loggers/logging_cost.cpp -o logging_cost
set -euo pipefail
program=$(realpath "$1") steps=${2:-200}
command -v valgrind > /dev/null || { echo "skipped: there is no valgrind"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
count() {
  mkdir "$folder/$1"
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$folder/$1" "$steps" "$1" 2>&1 |
    sed -n 's/^==[0-9]*== Collected : //p'
}
without=$(count off)
with=$(count on)
awk -v a="$without" -v b="$with" -v n="$steps" 'BEGIN {
  share = 100 * (b - a) / a
  printf "%d steps: %.0f instructions without logs, %.0f with: %.3f %% more\n", n, a, b, share
  exit share > 1 }'
