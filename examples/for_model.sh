#!/bin/bash
# Compiles a program for the model type that a file states, once, and runs it:
#   examples/for_model.sh MODEL generate [OPTION...]   continues a text with the model
#   examples/for_model.sh MODEL train [OPTION...]      trains a new model of its type; --from MODEL begins with its weights
#   examples/for_model.sh MODEL convert --to PLACE     writes the model as a file, or as a directory of Hugging Face's layout
#   examples/for_model.sh MODEL type                   prints the type
# MODEL is a file of train, or a directory with config.json and *.safetensors. Or a type in words:
#   examples/for_model.sh --type 'GPT<Config{...}, TopKRouter<8, 2>>' train [OPTION...]
# Options are those of the program. The type is checked by a closed grammar (include/moegpt/io/type_text.hpp) and
# by the size of the file before anything is compiled for it.
# Programs are kept in $XDG_CACHE_HOME/moegpt (~/.cache/moegpt), which may be removed at any time, under a hash of
# type, sources, flags, compiler, and what it knows of the processor. A compile takes about two minutes, at most
# 15 minutes of processor time, 20 minutes in all, and 6 GB.
# Environment: CXX (default g++), CXXFLAGS (default -O3 -march=native). Needs Eigen, nlohmann/json and CLI11.
set -euo pipefail
examples=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() { echo "for_model.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^[^#]/s/^# //p' "$examples/for_model.sh"; }

source=() arguments=()
case ${1-} in
  -h | --help) usage; exit 0 ;;
  --type) source=(--type "${2-}"); shift ;;
  *) source=("${1-}") arguments=(--model="${1-}") ;;
esac
shift || true
program=${1-}
shift || true
case $program in
  generate | convert) ;;
  train | type) arguments=() ;;
  *) usage >&2; exit 2 ;;
esac

# The directory of programs: the user's own, and closed to others.
base=${XDG_CACHE_HOME-}
[[ $base == /* ]] || base=${HOME:?is not set: set XDG_CACHE_HOME}/.cache
cache=$base/moegpt
mkdir -p -m 700 -- "$base"
mkdir -m 700 -- "$cache" 2> /dev/null || true
[[ -n $(find "$cache" -prune -type d -user "$(id -u)" -perm -700 ! -perm /077 2> /dev/null) ]] ||
  fail "$cache is not a directory of yours with mode 0700: remove it, or set XDG_CACHE_HOME"

read -ra cxx <<< "${CXX:-g++}"
read -ra flags <<< "${CXXFLAGS--O3 -march=native}"
command -v "${cxx[0]}" > /dev/null || fail "there is no compiler ${cxx[0]}: install g++, or set CXX"
for include in "$examples/../include" "$examples/../../../include"; do   # of the sources, of an installation
  [[ ! -e $include/moegpt/io.hpp ]] || break
done
[[ -e $include/moegpt/io.hpp ]] || fail "there is no moegpt/io.hpp in $examples/../include"
flags+=(-std=c++20 -DNDEBUG -DEIGEN_DONT_PARALLELIZE "-I$include")
for eigen in /usr/include/eigen3 /usr/local/include/eigen3; do
  [[ ! -d $eigen ]] || flags+=(-isystem "$eigen")
done
if "${cxx[@]}" -fopenmp -x c++ -E - <<< '#include <omp.h>' > /dev/null 2>&1; then flags+=(-fopenmp); fi

find "$cache" -maxdepth 1 -name 'build-*' -mmin +60 -exec rm -rf -- {} +   # of runs that were killed
work=""
trap '[[ -z $work ]] || rm -rf -- "$work"' EXIT

# compile NAME FLAG...: compiles NAME.cpp unless it was, and sets `built` to the program.
compile() {
  local name=$1 key
  shift
  key=$({
    printf '%s\0' "${cxx[@]}" "${flags[@]}" "$@"
    "${cxx[@]}" "${flags[@]}" -dM -E -x c++ /dev/null   # version, and features of the processor
    cd "$include" && find moegpt -type f | LC_ALL=C sort | xargs cat
    cd "$examples" && find . -name '*.hpp' | LC_ALL=C sort | xargs cat "$name.cpp"
  } | sha256sum | cut -c 1-40)
  built=$cache/$name-$key
  [[ ! -x $built ]] || return 0
  echo "for_model.sh: compiling $name, once; this takes a minute or two" >&2
  work=$(mktemp -d "$cache/build-XXXXXXXX")
  (
    ulimit -t 900 2> /dev/null || true   # seconds
    ulimit -v 6000000 2> /dev/null || true   # KiB
    TMPDIR=$work exec timeout --foreground 1200 "${cxx[@]}" "${flags[@]}" "$@" "$examples/$name.cpp" -o "$work/$name"
  ) > "$work/log" 2>&1 || {
    grep -E -m 5 'error|memory' "$work/log" | cut -c 1-400 >&2 || tail -n 5 "$work/log" >&2
    fail "$name does not compile, or takes too long or too much memory: $*"
  }
  mv -f -- "$work/$name" "$built"   # in one step, so that another run sees all of it
  rm -rf -- "$work"
  work=""
}

compile type_of -O1
type=$("$built" "${source[@]}")
[[ $type =~ ^[A-Za-z0-9_\ \<\>{}.,:=]+$ ]] || fail "the type has characters that no type has"
if [[ $program == type ]]; then
  printf '%s\n' "$type"
  exit 0
fi
compile "$program" "-DMOEGPT_MODEL=$type"
# Waiting threads block: on shared cores spinning ones would slow the others.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
exec "$built" "${arguments[@]}" "$@"
