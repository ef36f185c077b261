#!/bin/bash
# Installs missing packages, builds the examples, gets a text, trains a GPT with experts on it, and generates
# text. Arguments are options of train: examples/run.sh --steps 200 --seed 7
# File names are relative to the current directory; without --save the model is saved in runs/ of the repository.
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
data="" preset=small model=${root}runs/small.safetensors
given() { local name=$1 word; shift; for word in "$@"; do [[ $word == "$name" || $word == "$name="* ]] && return 0; done; return 1; }
options=()
given --data "$@" || { data=$(examples/get_corpus.sh) || data=""; }
if [[ -n $data ]]; then
  data=$root$data
  options+=(--data "$data")
fi
given --preset "$@" || options+=(--preset "$preset")
if given --save "$@"; then
  for (( i = 1; i <= $#; ++i )); do
    j=$(( i + 1 ))
    case ${!i} in
      --save) model=${!j-} ;;
      --save=*) model=${!i#--save=} ;;
    esac
  done
else
  options+=(--save "$model")
  mkdir -p runs
fi
cd "$here"
shown() { printf '%q ' "$@"; echo; }

# Waiting threads block: on shared cores spinning ones would slow the others.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"

echo "== training"
train=("${root}build/release/examples/train" "${options[@]}" "$@")
shown "${train[@]}"
"${train[@]}"

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
