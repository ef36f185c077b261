#!/bin/bash
# Compares with others, in turn. FOLDER is where the benchmarks were built.
#   bench/peers/run.sh FOLDER [options]              training steps, with PyTorch's (run.py)
#   bench/peers/run.sh FOLDER generation [options]   generation, with PyTorch's and llama.cpp's (generation.py)
# PEERS_PYTHON names interpreters that import torch, separated by colons (default: python3).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if (( $# == 0 )); then
  echo "usage: $0 FOLDER [generation] [options]: the folder that the benchmarks were built in; --help says more" >&2
  exit 2
fi
if ! command -v python3 > /dev/null; then
  echo "$0: python3 is missing (apt-get install python3)" >&2
  exit 1
fi
export PYTHONDONTWRITEBYTECODE=1
if [[ ${2-} == generation ]]; then
  exec python3 "$here/generation.py" "$1" "${@:3}"
fi
exec python3 "$here/run.py" "$@"
