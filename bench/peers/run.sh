#!/bin/bash
# Compares training steps with PyTorch's: bench/peers/run.sh FOLDER [options of run.py]. FOLDER holds the built
# program `ours`. PEERS_PYTHON names interpreters that import torch, separated by colons (default: python3).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if (( $# == 0 )); then
  echo "usage: $0 FOLDER [options]: the folder that the benchmarks were built in; --help says more" >&2
  exit 2
fi
if ! command -v python3 > /dev/null; then
  echo "$0: python3 is missing (apt-get install python3)" >&2
  exit 1
fi
exec python3 "$here/run.py" "$@"
