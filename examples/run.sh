#!/bin/bash
# Installs missing packages, builds the examples, gets a text, trains a GPT with experts on it, writes a report and
# generates text. Arguments are options of train: examples/run.sh --steps 200 --seed 7
# File names are relative to the current directory. Without --run, --resume or --save the run is a new directory in
# runs/ of the repository, which examples/run.sh --resume DIRECTORY goes on with.
set -euo pipefail
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source cmake/need_packages.sh

for word in "$@"; do
  [[ $word == --help || $word == -h ]] || continue
  sed -n '2,/^[^#]/s/^# //p' examples/run.sh
  [[ ! -x build/release/examples/train ]] || build/release/examples/train --help
  exit 0
done

packages=(g++=g++ cmake=cmake ninja-build=ninja libeigen3-dev=/usr/include/eigen3/Eigen/Core
  nlohmann-json3-dev=/usr/include/nlohmann/json.hpp libcli11-dev=/usr/include/CLI/CLI.hpp)
if [[ ! -s data/tinyshakespeare.txt ]] && ! command -v wget > /dev/null && can_install; then
  packages+=(curl=curl ca-certificates=/etc/ssl/certs/ca-certificates.crt)   # to fetch a text; without, see get_corpus.sh
fi
need_packages "this example" "${packages[@]}"

echo "== building the examples (one to three minutes)"
cmake --preset release
cmake --build --preset release --parallel "$(compile_jobs)"

# Options of the command line replace the defaults.
root=$PWD/
[[ ! $here -ef $root ]] || root=""
value_of() {   # value_of NAME ARGUMENT...: the value of an option; fails if it is not given
  local name=$1
  shift
  while (( $# )); do
    case $1 in
      "$name") echo "${2-}"; return ;;
      "$name="*) echo "${1#*=}"; return ;;
    esac
    shift
  done
  return 1
}
options=() data="" run=""
if run=$(value_of --resume "$@"); then   # which knows its text and preset
  model=$run/model.safetensors
else
  if ! value_of --data "$@" > /dev/null && data=$(examples/get_corpus.sh); then
    data=$root$data
    options+=(--data "$data")
  fi
  if ! value_of --steps "$@" > /dev/null && ! value_of --preset "$@" > /dev/null; then
    options+=(--steps 6000)   # 6.1 million tokens
  fi
  if run=$(value_of --run "$@"); then
    model=$run/model.safetensors
  elif ! model=$(value_of --save "$@"); then
    run=${root}runs/$(date +%Y-%m-%d_%H-%M-%S)
    model=$run/model.safetensors
    options+=(--run "$run")
  fi
fi
cd "$here"
shown() { printf '%q ' "$@"; echo; }

# Waiting threads block: on shared cores spinning ones would slow the others.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"

echo "== training"
train=("${root}build/release/examples/train" "${options[@]}" "$@")
shown "${train[@]}"
"${train[@]}"

if [[ -n $run ]]; then
  echo "== a report"
  "${root}build/release/examples/report" "$run"
fi

echo "== the trained model writes"
prompt=()
for start in "ROMEO:" "In the beginning"; do   # what the text holds, the model can read
  if [[ -n $data ]] && grep -qF -- "$start" "$data"; then
    prompt=(--prompt "$start")
    break
  fi
done
generate=("${root}build/release/examples/generate" --model "$model" "${prompt[@]}" --tokens 400 --seed 1)
shown "${generate[@]}"
"${generate[@]}"
