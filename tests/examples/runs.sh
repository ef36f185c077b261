#!/bin/bash
# runs.sh CASE PROGRAM FOLDER [TRIALS] [SEED]: runs of tests/examples/tiny_train.cpp. Cases:
#   resume   stopped after TRIALS random numbers of steps, a run ends with the bits of one that was not
#   kill     the same if it is killed at TRIALS random moments, while it trains, saves or logs
#   stop     signals, damaged checkpoints, two processes, numbers that are not finite
#   full     the disk is full for a while: training goes on, says so, and saves when there is room
#   options  what is wrong is refused with status 2 and a sentence, and nothing is written
#   tokens   token files train the bits that their text does, and documents are hidden from each other
#   damage   ways out of damaged manifests, checkpoints and logs
#   keep     which checkpoints are kept, when they are written, and how long the warm-up is
#   planted  a NaN in each tensor of weights and gradients in turn is named, and nothing is saved
# A campaign: runs.sh kill build/release/tests/examples/tiny_train /tmp/kill 200 $RANDOM
set -euo pipefail
script=$(realpath "$0") which=$1 program=$(realpath "$2") folder=$3 trials=${4:-10}
RANDOM=${5:-1}
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}   # a waiting thread must not take a core
mkdir -p "$folder"
cd "$folder"
for (( i = 0; i < 300; ++i )); do echo "To be, or not to be: that is question $i."; done > text.txt
steps=60
short=(--data text.txt --no-peak --steps $steps)
new=("${short[@]}" --eval-every 7 --log-every 3 --sample-every 20)
faults=0
fault() { echo "not so: $*" >&2; faults=$(( faults + 1 )); }
train() { "$program" "$@" > out.txt 2> err.txt; }
status() {   # status WANTED ARGUMENTS...: the program ends so
  local got=0 wanted=$1
  shift
  train "$@" || got=$?
  (( got == wanted )) || fault "status $wanted of $* (it is $got: $(tail -n 1 err.txt))"
}
# What must be equal: the last checkpoint, and what the log says of the computation.
weights_of() { cat "$1"/checkpoints/step_000000$steps/{model,optimizer}.safetensors | sha256sum; }
state_of() { grep -vE '"(threads|checkpoint-every|keep)"' "$1/checkpoints/step_000000$steps/state.json"; }
log_of() { grep -E '"kind":"(train|eval|sample)"' "$1/metrics.jsonl" | sed -E 's/,"(seconds|time)":.*//'; }
same() {   # same WHOLE RUN WHAT
  [[ $(weights_of "$1") == "$(weights_of "$2")" ]] || fault "the same weights and moments: $3"
  [[ $(state_of "$1") == "$(state_of "$2")" ]] || fault "the same state: $3"
  cmp -s <(log_of "$1") <(log_of "$2") || fault "the same log: $3"
}

case $which in
  resume)
    for kind in "--accumulate 1" "--accumulate 3 --order shuffled" "--accumulate 2 --balance-loads step --capacity 1.2"; do
      rm -rf whole
      status 0 --run whole "${new[@]}" $kind --checkpoint-every 1 --keep 1000
      for (( trial = 0; trial < trials; ++trial )); do
        n=$(( 1 + RANDOM % (steps - 1) )) threads=$(( 1 + trial % 2 ))
        rm -rf run
        cp -r whole run
        for (( later = n + 1; later <= steps; ++later )); do rm -r "run/checkpoints/step_$(printf %08d $later)"; done
        status 0 --resume run --threads $threads
        grep -q "goes on after step $n," err.txt || fault "it says where it goes on: $kind, step $n"
        same whole run "$kind, resumed after step $n with $threads threads"
      done
    done
    ;;
  kill)
    begin=$(date +%s%N)
    status 0 --run whole "${new[@]}" --checkpoint-every 5
    limit=$(( ($(date +%s%N) - begin) / 1000 ))   # microseconds after which a process is killed, at most
    killed=0
    for (( trial = 0; trial < trials; ++trial )); do
      rm -rf run
      for (( attempt = 0; ; ++attempt )); do
        if [[ -e run/run.json ]]; then how=(--resume run); else how=(--run run "${new[@]}" --checkpoint-every 5); fi
        how+=(--threads $(( 1 + RANDOM % 2 )))
        if (( attempt == 3 )); then
          status 0 "${how[@]}"
          break
        fi
        "$program" "${how[@]}" > out.txt 2> err.txt &
        sleep "$(printf '0.%06d' $(( (RANDOM * 32768 + RANDOM) % limit % 1000000 )))"
        kill -9 $! 2> /dev/null || true
        got=0
        wait $! 2> /dev/null || got=$?
        case $got in   # the limit follows the speed of the machine
          137) killed=$(( killed + 1 )) limit=$(( limit + limit / 16 )) ;;
          0) limit=$(( limit - limit / 8 )) ;;
          *) fault "trial $trial: status $got: $(tail -n 1 err.txt)" ;;
        esac
      done
      same whole run "trial $trial"
    done
    echo "$trials trials, $killed processes killed"
    (( killed >= trials )) || fault "most processes are killed before their end"
    ;;
  stop)
    status 0 --run whole "${new[@]}" --checkpoint-every 5
    for signal in INT:130 TERM:143; do
      rm -rf run
      (
        trap - INT
        exec "$program" --run run --data text.txt --no-peak --steps 1000000 --eval-every 0 > out.txt 2> err.txt
      ) &
      until [[ -s run/metrics.jsonl ]]; do sleep 0.02; done
      status 1 --resume run   # another process trains there
      grep -q "another process trains here" err.txt || fault "a second process is told why"
      kill -s ${signal%:*} $!
      got=0
      wait $! || got=$?
      (( got == ${signal#*:} )) || fault "status ${signal#*:} after SIG${signal%:*}: $got"
      [[ $(ls run/checkpoints) == step_* ]] || fault "a checkpoint after SIG${signal%:*}"
      status 0 --resume run --steps "$(ls run/checkpoints | sed 's/step_0*//')"
    done
    # A damaged checkpoint: the one before it is used, and the end is the same.
    rm -rf run
    cp -r whole run
    rm -r run/checkpoints/step_00000060
    echo x >> run/checkpoints/step_00000055/optimizer.safetensors
    status 0 --resume run
    grep -q "not used: .*step_00000055/optimizer.safetensors" err.txt || fault "the reason is given"
    grep -q "goes on after step 50" err.txt || fault "the checkpoint before is used"
    same whole run "after a damaged checkpoint"
    for checkpoint in run/checkpoints/*; do echo x >> "$checkpoint/manifest.txt"; done
    status 1 --resume run
    # A run that was killed before its first checkpoint.
    rm -r run/checkpoints/*
    status 0 --resume run
    grep -q "begins at step 0" err.txt || fault "it says that it begins at step 0"
    same whole run "begun again"
    # Another text.
    rm -rf run
    cp -r whole run
    tr o a < text.txt > other.txt
    status 4 --resume run --data other.txt
    cp text.txt moved.txt
    status 0 --resume run --data moved.txt
    # A learning rate that destroys the model: nothing of it is saved.
    rm -rf run
    status 3 --run run "${new[@]}" --lr 1e38 --checkpoint-every 1 --max-skips 2
    grep -q "is skipped: " err.txt || fault "skipped steps are told"
    (( $(grep -c '"what":"skipped"' run/metrics.jsonl) == 3 )) || fault "as many steps are skipped as allowed"
    status 3 --resume run
    ;;
  full)
    if [[ -z ${MOEGPT_OWN_MOUNTS-} ]]; then
      unshare -rm true 2> /dev/null || { echo "skipped: this user cannot mount a small disk"; exit 77; }
      MOEGPT_OWN_MOUNTS=1 exec unshare -rm bash "$script" full "$program" .
    fi
    mkdir small
    mount -t tmpfs -o size=1m none small || { echo "skipped: no small disk"; exit 77; }
    slow=("${short[@]}" --batch 300 --checkpoint-every 5 --eval-every 0)   # some 20 ms a step
    status 0 --run whole "${slow[@]}"
    "$program" --run small/run "${slow[@]}" > out.txt 2> err.txt &
    waits() { kill -0 $! 2> /dev/null && sleep 0.01; }
    until [[ -e small/run/checkpoints/step_00000005 ]]; do waits || break; done
    head -c 1m /dev/zero > small/ballast 2> /dev/null || true
    until grep -q "warning: there is no checkpoint of step .*No space left" err.txt; do waits || break; done
    rm small/ballast
    wait $! || fault "the run ends well: $(tail -n 1 err.txt)"
    grep -q '"what":"checkpoint failed"' small/run/metrics.jsonl || fault "the log has the failure"
    same whole small/run "after a full disk"
    # Full to the end: the final save fails, and so does the program.
    status 0 --run small/run "${short[@]}" --overwrite --keep 1
    head -c 1m /dev/zero > small/ballast 2> /dev/null || true
    status 1 --resume small/run --steps $(( steps + 5 ))
    rm small/ballast
    status 0 --resume small/run --steps $steps
    ;;
  options)
    status 0 --run whole "${new[@]}"
    status 0 --run short --data text.txt --no-peak --steps 5
    [[ $(grep -c '"kind":"eval","step":5,' short/metrics.jsonl) == 1 ]] || fault "the last step has an evaluation"
    rm -rf short
    status 0 --data text.txt --no-peak --steps 1
    grep -q "the model is not kept" err.txt || fault "it says that the model is not kept"
    status 0 --resume whole
    grep -q "already after step $steps: nothing to train" err.txt || fault "a finished run is told"
    status 2 --resume whole --steps 3
    status 0 --resume whole --batch 4 --length 16 --lr 0.01 --capacity 0   # as its preset has them
    status 2 --resume whole --batch 8
    grep -q "batch is '8', but the run in whole has '4'" err.txt || fault "both numbers: $(cat err.txt)"
    cp -r whole given   # a run of for_model.sh's program, before its first checkpoint, and with one
    rm -r given/checkpoints/*
    sed -i 's/"preset": "tiny"/"preset": "given"/' given/run.json
    status 2 --resume given
    grep -q "holds a model of type .*for_model.sh" err.txt || fault "the program for a run is named"
    rm -r given
    mkdir home
    echo mine > home/letter.txt
    echo "nonsense=3" > unknown.ini
    echo "steps=many" > wrong.ini
    echo "run=\"other\"" > other.ini
    find . ! -name out.txt ! -name err.txt -exec md5sum {} + 2> /dev/null | sort > before.txt || true
    while read -r line; do
      read -ra words <<< "$line"
      status 2 "${words[@]}"
      [[ ! -s out.txt ]] || fault "no output: $line"
      (( $(wc -l < err.txt) <= 2 )) && grep -q "^train: ..........*" err.txt || fault "a sentence: $line: $(cat err.txt)"
    done <<'END'
--resume nowhere
--resume text.txt
--resume home
--resume whole --seed 3
--resume whole --lr 0.5
--resume whole --batch 3
--resume whole --accumulate 2
--resume whole --order shuffled
--resume whole --tokenizer bytes
--resume whole --capacity 1
--resume whole --run other
--resume whole --overwrite
--resume whole --steps many
--resume whole --config other.ini
--run whole --data text.txt
--run home --data text.txt
--run home --data text.txt --overwrite
--run text.txt --data text.txt
--run new --data text.txt --keep 0
--run new --data text.txt --keep -1
--run new --data text.txt --checkpoint-every 0.5
--run new --data text.txt --max-skips x
--run new --data text.txt --length 1000
--run new --data text.txt --order backwards
--run new --data text.txt --balance-loads none
--run new --data text.txt --accumulate 0
--run new --data text.txt --color blue
--run new --data text.txt --config unknown.ini
--run new --data text.txt --config wrong.ini
--run new --data text.txt --config nowhere.ini
--run new --data text.txt --run new
--run new --data text.txt --checkpoint_every 3
--run
--overwrite --data text.txt
--keep 3 --data text.txt
--checkpoint-every 3 --data text.txt
--tensorboard --data text.txt
--save text.txt --data text.txt
END
    while IFS='|' read -r sentence line; do   # what CLI11 finds, in our words
      read -ra words <<< "$line"
      status 2 "${words[@]}"
      [[ $(head -n 1 err.txt) == "train: $sentence" ]] || fault "$sentence: $(head -n 1 err.txt)"
    done <<'END'
--steps has no value, expected one behind its name|--steps
--steps is given more than once, expected once|--steps 3 --steps 4
--run and --resume are given, expected one of them|--run new --resume whole
--overwrite is given without --run: give both, or neither|--overwrite
--config: the file 'nowhere.ini' cannot be read|--config nowhere.ini
the file of --config has 'nonsense', which is no option of this program|--config unknown.ini
--no-peak is 'maybe', expected another kind of value|--no-peak=maybe
--order: is 'backwards', expected random or shuffled|--order backwards
--color: is 'blue', expected auto, always or never|--color blue
END
    status 4 --run new --data nowhere.txt
    status 4 --run new --data unknown.ini
    find . ! -name out.txt ! -name err.txt ! -name before.txt -exec md5sum {} + 2> /dev/null | sort > after.txt || true
    diff <(grep -v before.txt before.txt) <(grep -v after.txt after.txt) || fault "nothing is written"
    # A file of options, and the command line before it.
    printf 'steps=3\ndata="text.txt"\nno-peak=true\nrun="configured"\n' > run.ini
    status 0 --config run.ini --steps 2
    [[ $(ls configured/checkpoints) == step_00000002 ]] || fault "the command line has precedence over the file"
    status 0 --run whole --data text.txt --steps 2 --no-peak --overwrite
    [[ $(ls whole/checkpoints) == step_00000002 ]] || fault "an overwritten run has its own checkpoints"
    ;;
  tokens)
    little() { local n=$1 i; for i in 1 2 3 4; do printf "\\x$(printf %02x $(( n & 255 )))"; n=$(( n >> 8 )); done; }
    ids16() { iconv -f latin1 -t utf-16le "$1"; }
    ids32() { iconv -f latin1 -t utf-32le "$1"; }
    header() { little $1; little $2; little $3; head -c 1012 /dev/zero; }   # magic, version, number of ids
    head -n 100 text.txt > a.txt
    tail -n +101 text.txt > b.txt
    ids16 text.txt > ids16.bin
    ids32 text.txt > ids32.bin
    { header 20240520 1 "$(stat -c %s a.txt)"; ids16 a.txt; } > a.bin
    { header 20240801 7 "$(stat -c %s b.txt)"; ids32 b.txt; } > b.bin
    model_of() { sha256sum < "$1/model.safetensors"; }
    few=(--no-peak --steps 12 --eval-every 4)
    for separator in "" "--separator 10"; do
      rm -rf text "ids 0" "ids 1" "ids 2"
      status 0 --run text --data text.txt --tokenizer bytes "${few[@]}" $separator
      status 0 --run "ids 0" --data ids16.bin --format uint16 "${few[@]}" $separator
      status 0 --run "ids 1" --data ids32.bin --format uint32 "${few[@]}" $separator
      status 0 --run "ids 2" --data a.bin b.bin "${few[@]}" $separator
      for i in 0 1 2; do
        [[ $(model_of text) == "$(model_of "ids $i")" ]] || fault "ids $i train as their text does $separator"
        cmp -s <(log_of text) <(log_of "ids $i") || fault "and have its losses $separator"
      done
    done
    cp -r text hidden
    rm -rf text
    status 0 --run text --data text.txt --tokenizer bytes "${few[@]}"
    [[ $(model_of text) != "$(model_of hidden)" ]] || fault "hidden documents change the training"
    # A document is hidden from a change of the one before it: of the first half of each line, if "," ends it.
    sed 's/^To be,/AB CD,/' text.txt > changed.txt
    for data in text changed; do
      rm -rf run
      status 0 --run run --data $data.txt --no-peak --tokenizer bytes --separator 44 --from text/model.safetensors --steps 0
      grep -o '"val_loss":[^,]*' run/metrics.jsonl > $data.loss
    done
    status 0 --resume "ids 2" --steps 14
    mv a.bin moved.bin
    status 0 --resume "ids 2" --data moved.bin b.bin --steps 16
    status 4 --resume "ids 2" --data b.bin --steps 18
    rm -rf run
    # The separator of texts is a form feed between them.
    status 0 --run run --data a.txt b.txt --separator auto "${few[@]}"
    grep -q '"separator":"auto"' run/metrics.jsonl || fault "a run keeps its separator"
    status 0 --resume run --steps 14
    # The tokenizer of a model, for ids of its characters.
    rm -rf run
    status 0 --run run --data text.txt "${few[@]}"
    head -c 4000 ids16.bin > small.bin
    wrong() {   # wrong STATUS SENTENCE ARGUMENTS...
      local wanted=$1 sentence=$2
      shift 2
      status "$wanted" --run new "$@"
      grep -q "^train: .*$sentence" err.txt || fault "'$sentence' of $*: $(cat err.txt)"
      [[ ! -e new ]] || fault "nothing is written: $*"
    }
    wrong 4 "expected 0 .. .*: the file is of another vocabulary" --data small.bin --format uint16 --tokenizer run/model.safetensors
    wrong 4 "Without --tokenizer FILE, ids are those of bytes" --data ids16.bin --format uint32
    wrong 4 "moved.bin holds token ids, text.txt text: give files of one kind" --data moved.bin text.txt
    wrong 4 "byte 1 is a NUL" --data ids16.bin
    head -c 3001 ids16.bin > odd.bin
    wrong 4 "has 3001 bytes, expected ids of 2 bytes" --data odd.bin --format uint16
    head -c 3001 moved.bin > half.bin
    wrong 4 "bytes of ids, but its header says" --data half.bin
    wrong 2 "format: is 'int8', expected auto, text, uint16 or uint32" --data ids16.bin --format int8
    wrong 2 "separator: is '-1', expected auto or the id of a token" --data text.txt --separator -1
    wrong 2 "separator: is 'x', expected auto or the id" --data text.txt --separator x
    wrong 2 "separator is 256, but the ids of these tokens are 0 .. 255" --data ids16.bin --format uint16 --separator 256
    wrong 2 "separator is 'auto', but ids16.bin states no separator" --data ids16.bin --format uint16 --separator auto
    wrong 2 "separator is 50256, but the ids of these tokens are 0 .. 255" --data moved.bin --separator auto
    wrong 2 "separator is 'auto', but the text has no form feed" --data text.txt --separator auto
    wrong 2 "tokenizer is 'characters', but --data are token ids" --data moved.bin --tokenizer characters
    wrong 2 "tokenizer: is 'words', expected auto, characters, bytes or a file: tokenizer.json, or a model's" --data text.txt --tokenizer words
    wrong 4 "text.txt: " --data text.txt --tokenizer text.txt
    ;;
  damage)
    status 0 --run whole "${new[@]}" --checkpoint-every 20
    back() { rm -rf run; cp -r whole run; rm -r run/checkpoints/step_00000060 run/model.safetensors run/routing.json; }
    # A damaged or lost run.json: the options of the checkpoint.
    for damage in ': >' 'head -c 40 whole/run.json >' 'rm -f'; do
      back
      eval "$damage run/run.json"
      status 0 --resume run
      grep -q "warning: .*run.json.*: written anew with the options of run/checkpoints/step_00000040" err.txt ||
        fault "the repair is told: $damage"
      same whole run "$damage run.json"
      status 0 --resume run
      ! grep -q "warning" err.txt || fault "repaired once: $(cat err.txt)"
    done
    back
    rm -r run/checkpoints/*
    echo '{' > run/run.json
    status 1 --resume run
    grep -q "run.json: .*Begin it anew in another directory, or in this one by overwriting" err.txt || fault "what to do: $(cat err.txt)"
    status 2 --run run "${new[@]}"
    status 0 --run run "${new[@]}" --overwrite
    same whole run "overwritten"
    # All checkpoints damaged: the model at the end is a way out.
    for checkpoint in run/checkpoints/*; do echo x >> "$checkpoint/state.json"; done
    status 1 --resume run
    grep -q "no valid checkpoint.*generate --model run/model.safetensors uses it, train --run OTHER --from run/model.safetensors" err.txt ||
      fault "the model is a way out: $(tail -n 1 err.txt)"
    status 0 --run other --data text.txt --no-peak --steps 10 --from run/model.safetensors
    status 0 --resume other --steps 12
    first() { grep -m 1 '"kind":"eval"' "$1/metrics.jsonl" | sed 's/.*"val_loss":\([^,]*\).*/\1/'; }
    awk -v a="$(first other)" -v b="$(first whole)" 'BEGIN { exit !(a < 0.8 * b) }' || fault "the model is begun with: $(first other)"
    status 2 --run new --data text.txt --tokenizer bytes --from run/model.safetensors
    status 2 --run new --data text.txt --tokenizer run/model.safetensors --from run/checkpoints/step_00000060/optimizer.safetensors
    status 1 --run new --data text.txt --tokenizer characters --from nowhere.safetensors
    rm -rf new
    echo x > run/model.safetensors
    status 1 --resume run
    grep -q "begin it anew, in another directory, or here with --run run --overwrite" err.txt || fault "without a model: $(tail -n 1 err.txt)"
    # A damaged line behind those of the checkpoint's steps: it is cut off.
    back
    sed -i 's/^{"kind":"train","step":41,.*/{"kind":"train","st\x00/' run/metrics.jsonl
    status 0 --resume run
    grep -q "warning: .*metrics.jsonl, line .*it and the lines behind it are removed" err.txt || fault "it is told: $(cat err.txt)"
    same whole run "after a damaged line"
    back
    sed -i 's/^{"kind":"train","step":3,.*/{"kind":"train","st/' run/metrics.jsonl
    cp run/metrics.jsonl before.jsonl
    status 1 --resume run
    grep -q "correct the line, or move the file away" err.txt || fault "what to do: $(tail -n 1 err.txt)"
    cmp -s before.jsonl run/metrics.jsonl || fault "a log with damage among kept steps stays as it was"
    ;;
  keep)
    kept() { ls "$1/checkpoints" | sed 's/step_0*//' | tr '\n' ' '; }
    status 0 --run run "${short[@]}" --eval-every 20 --checkpoint-every 5 --keep 2 --keep-every 15
    [[ $(kept run) == "15 30 45 55 60 " ]] || fault "the newest and every 15th: $(kept run)"
    # A weight that is spoilt after 35 steps: the evaluation after 30 is the best.
    rm -rf run
    PLANT="spoilt norm.weight 35" status 0 --run run "${short[@]}" --eval-every 15 --checkpoint-every 10 --keep 1
    [[ $(kept run) == "30 60 " ]] || fault "the best and the newest: $(kept run)"
    grep -q "the checkpoint with the least val loss, .*step_00000030$" err.txt || fault "it is named: $(tail -n 3 err.txt)"
    status 0 --resume run --steps 70
    [[ $(kept run) == "30 70 " ]] || fault "the best is kept by a resumed run: $(kept run)"
    rm -rf run
    status 0 --run run "${short[@]}" --checkpoint-every 0 --checkpoint-minutes 0.00001 --keep 100
    (( $(kept run | wc -w) > 5 )) || fault "checkpoints in time: $(kept run)"
    rm -rf run
    status 0 --run run "${short[@]}" --checkpoint-every 0 --keep 100
    [[ $(kept run) == "60 " ]] || fault "without: $(kept run)"
    # The warm-up is at most a tenth of the steps, and stays what it is.
    rates() { grep '"kind":"train"' "$1/metrics.jsonl" | sed 's/.*"learning_rate":\([^,]*\),.*/\1/'; }
    rm -rf run
    status 0 --run run --data text.txt --no-peak --steps 20
    grep -q '"warmup":"2"' run/metrics.jsonl || fault "a tenth of 20 steps is 2"
    [[ $(rates run | sort -g | tail -n 1) == "$(rates run | sed -n 3p)" ]] || fault "the largest rate is the third: $(rates run)"
    status 0 --resume run --steps 40
    grep '"kind":"run"' run/metrics.jsonl | tail -n 1 | grep -q '"warmup":"2"' || fault "more steps do not change it"
    status 2 --resume run --warmup 4 --steps 50
    grep -q "warmup is '4', but the run in run has '2'" err.txt || fault "both numbers: $(cat err.txt)"
    # A run of an earlier version has the warm-up of its preset, 5.
    rm -r run/checkpoints/*
    sed -i -z 's/,\n *"warmup": "2"//' run/run.json
    status 0 --resume run --steps 30
    [[ $(rates run | sort -g | tail -n 1) == "$(rates run | sed -n 6p)" ]] || fault "the largest rate is the sixth: $(rates run)"
    ;;
  planted)
    few=(--data text.txt --no-peak --steps 6 --eval-every 0 --checkpoint-every 1)
    PLANT="weight ? 3" status 0 --run run "${few[@]}"
    mapfile -t names < <(sed -n 's/^tensor //p' err.txt)
    (( ${#names[@]} > 30 )) || fault "all tensors are listed: ${#names[@]}"
    for name in "${names[@]}"; do
      for what in weight gradient; do
        rm -rf run saved.safetensors
        PLANT="$what $name 3" status 3 --run run "${few[@]}" --max-skips 0 --save saved.safetensors
        of=""
        [[ $what == weight ]] || of="of "
        grep -qF "diverged: " err.txt && grep -qF "the $what $of$name[" err.txt || fault "$what $name is named: $(tail -n 1 err.txt)"
        [[ $(ls run/checkpoints | tail -n 1) == step_00000003 ]] || fault "$what $name: no checkpoint behind it"
        [[ ! -e run/model.safetensors && ! -e saved.safetensors ]] || fault "$what $name: no model"
        ! grep -q 'nan' run/checkpoints/*/state.json || fault "$what $name: the state is finite"
        [[ $what == weight ]] || PLANT="gradient $name 3" status 0 --run run "${few[@]}" --max-skips 1 --overwrite
      done
    done
    echo "${#names[@]} tensors"
    ;;
esac
echo "$faults faults"
(( faults == 0 ))
