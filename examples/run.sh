#!/bin/bash
# The main job from nothing: installs what is missing, builds the examples, gets a text, trains a GPT with
# experts on it, and lets it write. Arguments go to the training: examples/run.sh --steps 200 --seed 7
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source cmake/need_packages.sh

packages=(g++=g++ cmake=cmake ninja-build=ninja libeigen3-dev=/usr/include/eigen3/Eigen/Core
  nlohmann-json3-dev=/usr/include/nlohmann/json.hpp libcli11-dev=/usr/include/CLI/CLI.hpp)
if [[ ! -s data/tinyshakespeare.txt ]] && ! command -v wget > /dev/null && can_install; then
  packages+=(curl=curl ca-certificates=/etc/ssl/certs/ca-certificates.crt)   # to fetch a text; without, see get_corpus.sh
fi
need_packages "this example" "${packages[@]}"

echo "== building the examples (one to three minutes)"
cmake --preset release
cmake --build --preset release --parallel "$(compile_jobs)"

# Options given on the command line replace ours.
data="" preset=small model=runs/small.safetensors
given() { local name=$1 word; shift; for word in "$@"; do [[ $word == "$name" || $word == "$name="* ]] && return 0; done; return 1; }
options=()
given --data "$@" || { data=$(examples/get_corpus.sh) || data=""; }
[[ -n $data ]] && options+=(--data "$data")
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
fi
mkdir -p "$(dirname "$model")"

# Threads that wait should sleep: spinning ones take the cores from each other where cores are shared.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"

echo "== training"
echo "build/release/examples/train ${options[*]} $*"
build/release/examples/train "${options[@]}" "$@"

echo "== the trained model writes"
prompt=()
case $data in
  *shakespeare*) prompt=(--prompt "ROMEO:") ;;
  *bible*) prompt=(--prompt "In the beginning") ;;
esac
generate=(build/release/examples/generate --model "$model" "${prompt[@]}" --tokens 400 --seed 1)
echo "${generate[*]}"
"${generate[@]}"
