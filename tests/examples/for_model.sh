#!/bin/bash
# for_model.sh ROOT TYPE_OF FOLDER: examples/for_model.sh with a stand-in for the compiler. It records its arguments
# and limits; for type_of it gives the program TYPE_OF, for others a script that prints its name and arguments.
set -euo pipefail
root=$1 type_of=$2 folder=$3
script="$root/examples/for_model.sh"
source "$(dirname "${BASH_SOURCE[0]}")/expect.sh"
not() { ! "$@"; }
equal() { [[ $1 == "$2" ]] || { printf '%s\n' "is '$1', expected '$2'" >&2; return 1; }; }
cd "$folder"
export HOME=$folder/home XDG_CACHE_HOME=$folder/cache CXX=$folder/compiler CXXFLAGS=-O1 TYPE_OF=$type_of LOG=$folder/log
cat > compiler << 'END'
#!/bin/bash
[[ " $* " != *" -E "* ]] || exit 0
printf '%s\n' "$@" >> "$LOG"
[[ ${FAILS-} != *"$(basename "${@: -3:1}")"* ]] || { echo "model.hpp:1:1: error: static assertion failed: no"; exit 1; }
echo "limits $(ulimit -t) $(ulimit -v) $(dirname "$TMPDIR")" >> "$LOG"
case ${@: -3:1} in
  */type_of.cpp) cp "$TYPE_OF" "${@: -1}" ;;
  *) printf '#!/bin/bash\necho %s "$@"\nexit 7\n' "$(basename "${@: -3:1}" .cpp)" > "${@: -1}"; chmod +x "${@: -1}" ;;
esac
END
chmod +x compiler
run() { status=0; output=$("$script" "$@" 2> errors) || status=$?; }
compiled() { grep -c "/$1.cpp\$" log 2> /dev/null || true; }

# model FILE TYPE: a file of format version 1 that states the type, as JSON text, with 1,000,000 numbers.
model() {
  local header='{"__metadata__":{"moegpt.model":"'$2'"},"a":{"dtype":"I8","shape":[1000000],"data_offsets":[0,1000000]}}'
  local length=${#header}
  printf "$(printf '\\x%02x\\x%02x\\0\\0\\0\\0\\0\\0' $(( length & 255 )) $(( length >> 8 )))" > "$1"
  printf '%s' "$header" >> "$1"
  head -c 1000000 /dev/zero >> "$1"
}
config='Config{.vocab = 96, .context = 16, .dim = 8, .layers = 2, .heads = 2}'
type="GPT<$config, TopKRouter<8, 2>>"

model model.safetensors "$type"
run model.safetensors generate --prompt "two words" --tokens 3
equal "$output" "generate --model=model.safetensors --prompt two words --tokens 3" || { cat errors >&2; exit 1; }
expect "the program's status is the script's" equal "$status" 7
expect "each program is compiled once" equal "$(compiled type_of) $(compiled generate)" "1 1"
expect "the type is one argument of the compiler" grep -qxF -- "-DMOEGPT_MODEL=$type" log
expect "the compiler has limits, and its files are in the cache" equal \
  "$(grep -c "^limits 900 6000000 $XDG_CACHE_HOME/moegpt\$" log)" 2
expect "the programs' directory is closed to others" equal "$(stat -c %a cache/moegpt)" 700
run model.safetensors generate
expect "the second time nothing is compiled" equal "$output $(compiled type_of) $(compiled generate)" \
  "generate --model=model.safetensors 1 1"
run model.safetensors type
expect "type prints the type" equal "$output $status" "$type 0"
run model.safetensors convert --to directory
expect "convert gets the model" equal "$output" "convert --model=model.safetensors --to directory"
run --type "$type" train --steps 3
expect "train gets its options alone" equal "$output $(compiled train)" "train --steps 3 1"
run model.safetensors train
expect "a file and a type in words have one program" equal "$output $(compiled train)" "train 1"
CXXFLAGS=-O2 run model.safetensors generate
expect "other flags are another program" equal "$(compiled generate)" 2
model other.safetensors "${type/8, 2/4, 2}"
run other.safetensors generate
expect "another type is another program" equal "$output $(compiled generate)" "generate --model=other.safetensors 3"

model third.safetensors "${type/8, 2/5, 2}"
before=$(ls cache/moegpt | wc -l)
for i in 1 2 3 4; do "$script" third.safetensors generate "$i" > "out$i" 2> /dev/null & done
wait || true
for i in 1 2 3 4; do
  expect "runs at once do not disturb each other" equal "$(cat "out$i")" "generate --model=third.safetensors $i"
done
expect "runs at once leave one program" equal "$(ls cache/moegpt | wc -l)" $(( before + 1 ))

name='$(touch pwned) `touch pwned`; "q'
cp model.safetensors "$name"
run "$name" generate '$(touch pwned)' '*'
expect "names and options are words" equal "$output" "generate --model=$name \$(touch pwned) *"

mkdir -p installed/share/moegpt installed/include   # where cmake --install puts it
cp -r "$root/examples" installed/share/moegpt
cp -r "$root/include/moegpt" installed/include
script=installed/share/moegpt/examples/for_model.sh run model.safetensors generate
expect "the installed script has the installed headers" grep -qxF -- \
  "-I$folder/installed/share/moegpt/examples/../../../include" log

# Refused before anything is compiled for it.
rm log
refused() {   # refused WHAT MESSAGE ARGUMENT...
  local what=$1 message=$2
  shift 2
  run "$@"
  expect "$what: an error, no output" equal "$output$status" 1
  expect "$what: '$message' in: $(cat errors)" grep -qF -- "$message" errors
}
hostile=('; system(\"id\"); //' '$(touch pwned)' '`touch pwned`' '\n#include </etc/passwd>' '\"' "'" ' && touch pwned'
  '/* */' '|touch pwned' '>pwned' '\u0000' '\u202e' '\u001b[2J' '\\' '-o pwned' '@pwned' '??/' '%s' '${HOME}' '\t')
for text in "${hostile[@]}"; do
  model hostile.safetensors "$type$text"
  refused "type and $text" "the text of a model type has" hostile.safetensors generate
  model hostile.safetensors "GPT<$config, $text>"
  refused "$text as router" "the text of a model type has" hostile.safetensors train
  model hostile.safetensors "GPT<$config, ${text}Router<8, 2>>"
  refused "$text in a name" "the text of a model type has" hostile.safetensors generate
done
for text in "${type/96/-96}" "${type/96/096}" "${type/96/0x60}" "${type/96/6 * 16}" "${type/96/99999999999999999999}" \
  "${type/layers = 2/layers = 2000000000}" "${type/TopKRouter/MyRouter}" "${type%>}" "your router" ""; do
  refused "$text" "the text of a model type has" --type "$text" train
done
for nested in {1..50}; do text="${text}Masked<"; done
refused "nested types" "nested" --type "GPT<$config, $text" train
refused "many bytes" "5000 bytes" --type "$(printf '%5000s' '')" train
refused "a trunk" "expected a GPT" --type "${type/GPT/Transformer}" train
model hostile.safetensors "${type/layers = 2/layers = 4000}"
refused "more layers than the file has" "states a type of at least" hostile.safetensors generate
refused "no file" "cannot open" nowhere.safetensors generate
refused "a file that is no model" "not a safetensors file" compiler generate
expect "nothing was compiled" test ! -e log
expect "nothing of a file was run" test ! -e pwned
for words in "" "model.safetensors" "model.safetensors chat" "--type" "--type x"; do
  run $words
  expect "'$words' is no command" equal "$output$status" 2
done

# A compiler that fails, and places for programs that are not the user's alone.
FAILS=train.cpp CXXFLAGS=-O3 run model.safetensors train
expect "what does not compile is an error" equal "$status" 1
expect "the compiler's error is shown" grep -qF "static assertion failed: no" errors
expect "no half-made program is left" equal "$(ls -A cache/moegpt | grep -c build)" 0
CXXFLAGS=-O3 run model.safetensors train
expect "what did not compile is compiled again" equal "$output" train
chmod 755 cache/moegpt
run model.safetensors generate
expect "a directory that others may read is refused" equal "$output$status" 1
expect "and named" grep -qF "is not a directory of yours with mode 0700" errors
mv cache/moegpt elsewhere
chmod 700 elsewhere
ln -s "$folder/elsewhere" cache/moegpt
run model.safetensors generate
expect "a link is refused" equal "$output$status" 1
XDG_CACHE_HOME=relative run model.safetensors generate
expect "a cache that is not absolute is ignored" test -d home/.cache/moegpt -a ! -e relative

echo "$faults faults"
(( faults == 0 ))
