#!/bin/bash
# scripts.sh ROOT FOLDER: examples/run.sh and get_corpus.sh in a copy of the project under FOLDER, with stand-ins
# for all that they start. Nothing is built, installed or fetched.
set -euo pipefail
root=$1 project="$2/a project" bin="$2/bin" elsewhere="$2/else where"
source "$(dirname "${BASH_SOURCE[0]}")/expect.sh"
make_program() { printf '#!/bin/bash\n%s\n' "$2" > "$1"; chmod +x "$1"; }
begin() {   # a fresh copy
  rm -rf "$project" "$elsewhere"
  mkdir -p "$project/cmake" "$project/examples" "$project/build/release/examples" "$elsewhere" "$bin"
  cp "$root/examples/run.sh" "$root/examples/get_corpus.sh" "$project/examples"
  echo 'need_packages() { :; }; can_install() { return 1; }; compile_jobs() { echo 1; }' > "$project/cmake/need_packages.sh"
  for program in train generate report; do
    make_program "$project/build/release/examples/$program" "printf '%s\n' $program \"\$@\" >> log"
  done
}
# Downloads that stop halfway, by either program, and no packages.
mkdir -p "$bin"
half='while (( $# )); do case $1 in -o | -O) echo half > "$2" ;; esac; shift; done; exit 18'
make_program "$bin/curl" "$half"
make_program "$bin/wget" "$half"
make_program "$bin/apt-get" "exit 1"
make_program "$bin/bible" "exit 1"
make_program "$bin/cmake" ":"
export PATH=$bin:$PATH

begin
status() { local wanted=$1; shift; local got=0; "$@" > /dev/null 2>&1 || got=$?; (( got == wanted )); }

expect "without a text the status is 3" status 3 "$project/examples/get_corpus.sh"
expect "half a download leaves nothing" test -z "$(ls -A "$project/data")"

echo "my own text" > "$project/data/bible.txt"
expect "a text that is there is used" test "$("$project/examples/get_corpus.sh" 2> /dev/null)" = data/bible.txt
expect "a text that is there stays as it is" test "$(cat "$project/data/bible.txt")" = "my own text"
rm -r "$project/data"
ln -s missing "$project/data"
expect "a link to a folder that is not there is no reason to fail" status 3 "$project/examples/get_corpus.sh"
expect "a link to a folder that is not there stays" test -L "$project/data"
rm "$project/data"

# run.sh: what the programs are started with, one word a line.
run() {   # run FOLDER ARGUMENTS...
  local from=$1
  shift
  rm -f "$from/log"
  (cd "$from" && "$project/examples/run.sh" "$@" > /dev/null 2>&1)
}
started() { grep -qxF -- "$2" "$1/log"; }
model_of() { grep -xE "$2runs/[-0-9_]+/model\.safetensors" "$1/log" > /dev/null; }
run "$project"
expect "the run goes to runs/" grep -qxE "runs/[-0-9_]+" "$project/log"
expect "its model is the one that writes" model_of "$project" ""
expect "there is a report of it" grep -qxF report "$project/log"
expect "a generated text needs no prompt" status 1 started "$project" --prompt
run "$elsewhere" --data "my book.txt" --save model.safetensors
expect "a text is looked for where one stands" started "$elsewhere" "my book.txt"
expect "the model is written where one stands" test "$(grep -cxF model.safetensors "$elsewhere/log")" = 2
expect "a bare model has no report" status 1 started "$elsewhere" report
run "$elsewhere" --save=model.safetensors
expect "--save=FILE is --save FILE" started "$elsewhere" --save=model.safetensors
expect "the model of --save=FILE is the one that writes" started "$elsewhere" model.safetensors
expect "--save=FILE is not given twice" status 1 started "$elsewhere" --save
run "$elsewhere" --save no/such/model
expect "a folder that was not there is not made" test ! -e "$elsewhere/no"
run "$elsewhere"
expect "without --save the run goes to the project" model_of "$elsewhere" "$project/"
run "$elsewhere" --run=mine --steps 3
expect "the model of a run is in its directory" started "$elsewhere" mine/model.safetensors
expect "a run that is named has no other name" status 1 started "$elsewhere" --run
run "$elsewhere" --resume mine
expect "a run that is resumed knows its options" test "$(head -n 3 "$elsewhere/log" | tr '\n' ' ')" = "train --resume mine "
expect "the model of a resumed run is in its directory" started "$elsewhere" mine/model.safetensors
mkdir -p "$project/data"
echo "no play" > "$project/data/tinyshakespeare.txt"
run "$elsewhere"
expect "the text is the project's" started "$elsewhere" "$project/data/tinyshakespeare.txt"
expect "a prompt that the text does not hold is not given" status 1 started "$elsewhere" --prompt
echo "ROMEO: ay" > "$project/data/tinyshakespeare.txt"
run "$elsewhere"
expect "a prompt that the text holds is given" started "$elsewhere" ROMEO:
rm "$elsewhere/log"
expect "--help is shown" test -n "$(cd "$elsewhere" && "$project/examples/run.sh" --help | grep -- '--steps')"
expect "--help starts no run" test ! -e "$elsewhere/log"

echo "$faults faults"
(( faults == 0 ))
