#!/bin/bash
# runs.sh CASE PROGRAM FOLDER [TRIALS] [SEED]: runs of tests/examples/tiny_train.cpp. Cases:
#   resume   stopped after TRIALS random numbers of steps, a run ends with the bits of one that was not
#   kill     the same if it is killed at TRIALS random moments, while it trains, saves or logs
#   stop     signals, damaged checkpoints, two processes, numbers that are not finite
#   full     the disk is full for a while: training goes on, says so, and saves when there is room
#   options  what is wrong is refused with status 2 and a sentence, and nothing is written
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
esac
echo "$faults faults"
(( faults == 0 ))
