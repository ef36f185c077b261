#!/bin/bash
# train.sh CASE FOLDER ALONE MPIRUN PROGRAM [MPIRUN PROGRAM]: tests/examples/tiny_train.cpp on two ranks. ALONE is the
# program without MPI, PROGRAM the one for MPIRUN. Cases:
#   equal    all MPIs write the same log and weights, and losses are those of one process up to rounding
#   stop     SIGTERM to one rank stops all after the same step; the run goes on, on two ranks and in one process
#   kill     a rank that is killed ends the job, which goes on from its last checkpoint
#   hang     a rank that hangs ends the job by the watchdog, and it goes on
#   faults   an error or a number that is not finite on one rank is one of all
#   trials   TRIALS (default 50) jobs are killed at random moments, and end with the bits of one that was not:
#            TRIALS=50 train.sh trials FOLDER ALONE MPIRUN PROGRAM
# Status 77: an MPI starts no processes here.
set -euo pipefail
script=$(realpath "$0") which=$1 folder=$2 alone=$(realpath "$3")
shift 3
mpis=()
while (( $# )); do mpis+=("$1 $(realpath "$2")"); shift 2; done
mkdir -p "$folder"
cd "$folder"
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_base_warn_component_unused=0
RANDOM=${SEED:-1}
for (( i = 0; i < 300; ++i )); do echo "To be, or not to be: that is question $i."; done > text.txt
steps=40 last_checkpoint=step_00000040
new=(--data text.txt --no-peak --steps $steps --eval-every 10 --log-every 10 --checkpoint-every 10)
faults=0
fault() { echo "not so: $*" >&2; faults=$(( faults + 1 )); }
choose() { read -r mpirun program <<< "$1"; }

# A rank writes its process id, and has the variables of PLANT_1 if it is rank 1.
cat > rank.sh <<'END'
rank=${OMPI_COMM_WORLD_RANK-${PMI_RANK-0}}
echo $$ > "process.$rank.new"
mv "process.$rank.new" "process.$rank"
[[ $rank != 1 || -z ${PLANT_1-} ]] || export PLANT=$PLANT_1
exec "$@"
END
start() {   # start RANKS ARGUMENTS...: in the background
  rm -f process.*
  timeout -k 5 100 "$mpirun" -n "$1" bash rank.sh "$program" --threads 1 "${@:2}" > out.txt 2> err.txt &
}
status=0
finish() { status=0; wait $! 2> /dev/null || status=$?; }
train() { start "$@"; finish; }
succeed() { train "$@"; (( status == 0 )) || fault "$mpirun -n $* ends with 0 (it is $status: $(grep -v '^ *$' err.txt | tail -n 5))"; }
fails_with() {   # fails_with MESSAGE: the last job
  (( status != 0 && status != 124 && status != 137 )) || fault "the job ends by itself, with another status than 0: $status"
  grep -q -- "$1" err.txt || fault "\"$1\" in: $(cat err.txt)"
}
waits_for_step() {   # until the log of run has a step after STEP
  until grep -q "\"kind\":\"train\",\"step\":$1," run/metrics.jsonl 2> /dev/null; do
    kill -0 $! 2> /dev/null || { fault "the job lives at step $1: $(tail -n 5 err.txt)"; return; }
    sleep 0.01
  done
}
weights_of() { cat "$1/checkpoints/$last_checkpoint"/{model,optimizer}.safetensors "$1/model.safetensors" | sha256sum; }
log_of() { grep -E '"kind":"(train|eval)"' "$1/metrics.jsonl" | sed -E 's/,"(seconds|time)":.*//'; }
same() {
  [[ -e $1/checkpoints/$last_checkpoint && -e $2/checkpoints/$last_checkpoint ]] || fault "a checkpoint at the end: $3"
  [[ $(weights_of "$1") == "$(weights_of "$2")" ]] || fault "the same weights and moments: $3"
  cmp -s <(log_of "$1") <(log_of "$2") || fault "the same log: $3"
}
close() {   # losses and norms of two runs, up to rounding
  paste <(log_of "$1") <(log_of "$2") | awk -v what="$3" -F '[:,\t]' '
    function number(line, name,   rest) {
      if (!match(line, "\"" name "\":[-+.e0-9]+")) return "none"
      return substr(line, RSTART + length(name) + 3, RLENGTH - length(name) - 3)
    }
    { split($0, run, "\t")
      for (i = 1; i <= split("step loss balance_loss gradient_norm train_loss val_loss", names, " "); ++i) {
        a = number(run[1], names[i]); b = number(run[2], names[i])
        if (a == b) continue
        off = a == "none" || b == "none" ? 1 : (a - b) / a
        if (off < 0) off = -off
        if (off > most) most = off
      } }
    END { print what ": losses and norms differ by at most " most; exit most > 1e-4 }' || fault "equal up to rounding: $3"
  (( $(log_of "$1" | wc -l) == $(log_of "$2" | wc -l) )) || fault "as many lines: $3"
}
goes_on() {   # goes_on WHAT: run ends as whole does
  succeed 2 --resume run
  grep -q "goes on after step" err.txt || fault "it goes on from a checkpoint: $1"
  same whole run "$1"
}

for mpi in "${mpis[@]}"; do
  choose "$mpi"
  timeout 60 "$mpirun" -n 2 true > /dev/null 2>&1 || { echo "skipped: $mpirun starts no processes here"; exit 77; }
done
for mpi in "${mpis[@]}"; do
  choose "$mpi"
  echo "== $mpirun, $which"
  rm -rf whole run
  case $which in
    equal)
      name=$(basename "$mpirun")
      rm -rf "$name" one
      succeed 2 --run "$name" "${new[@]}"
      [[ -z ${first-} ]] || same "$first" "$name" "$first and $name"
      first=${first:-$name}
      (( $(grep -c '"rank_load":\[[0-9]*,[0-9]*\],"rank_bytes":\[[0-9]*,[0-9]*\],"rank_waiting":\[' "$name/metrics.jsonl") == steps )) ||
        fault "each step has load, bytes and waiting of each rank"
      (( $(grep -c '^step ' err.txt) == $(grep '^step ' err.txt | sort -u | wc -l) )) || fault "one rank prints"
      "$alone" --run one "${new[@]}" --threads 1 > out.txt 2> err.txt || fault "one process trains"
      close one "$name" "one process and two ranks"
      diff <(cd one; find . | sort) <(cd "$name"; find . | sort) || fault "the same files"
      ;;
    stop | kill | hang)
      succeed 2 --run whole "${new[@]}"
      start 2 --run run "${new[@]}" --watchdog 4
      waits_for_step 12
      case $which in
        stop)
          kill -TERM "$(< process.1)"
          finish
          fails_with "asked to end after step [0-9]* of $steps"
          last=$(sed -n 's/.*asked to end after step \([0-9]*\) of.*/\1/p' err.txt)
          [[ -e run/checkpoints/step_$(printf %08d "$last") ]] || fault "a checkpoint of step $last"
          rm -rf one
          cp -r run one
          "$alone" --resume one > out.txt 2> err.txt || fault "one process goes on with it: $(tail -n 1 err.txt)"
          grep -q "goes on after step $last" err.txt || fault "one process goes on after step $last"
          close whole one "stopped after step $last, then in one process"
          ;;
        kill) kill -KILL "$(< process.1)"; finish; (( status != 0 )) || fault "a job whose rank is killed fails" ;;
        hang)
          kill -STOP "$(< process.1)"
          finish
          kill -KILL "$(< process.1)" 2> /dev/null || true
          fails_with "rank 0: no progress for 4 s in "
          ;;
      esac
      goes_on "after $which"
      ;;
    faults)
      PLANT_1="gradient blocks.0.moe.experts.3.up.weight 4" train 2 --run run --data text.txt --no-peak --steps 6
      (( status == 0 )) || fault "a step is skipped: $status"
      grep -q "step 5 is skipped: the gradient of blocks.0.moe.experts.3.up.weight\[" err.txt ||
        fault "the gradient on rank 1 is named: $(tail -n 3 err.txt)"
      PLANT_1="weight blocks.0.attention.output.weight 4" train 2 --run run "${new[@]}" --overwrite
      fails_with "the weight blocks.0.attention.output.weight\[.* is not finite"
      train 2 --run run "${new[@]}" --overwrite --batch 3
      fails_with "batch is 3, which 2 ranks cannot share equally"
      [[ $(grep -c "cannot share equally" err.txt) == 1 ]] || fault "one rank tells it"
      train 2 --steps many
      fails_with "expected a whole number"
      [[ $(grep -c "expected a whole number" err.txt) == 1 ]] || fault "one rank tells it"
      train 2 --run run "${new[@]}" --overwrite --expert-ranks 3
      fails_with "their number must be a multiple of it"
      ;;
    trials)
      succeed 2 --run whole "${new[@]}"
      killed=0 resumed=0
      begin=$(date +%s%N)
      succeed 2 --run run "${new[@]}"
      limit=$(( ($(date +%s%N) - begin) / 1000 ))   # microseconds
      for (( trial = 0; trial < ${TRIALS:-50}; ++trial )); do
        rm -rf run
        for (( attempt = 0; ; ++attempt )); do
          if [[ -e run/run.json ]]; then how=(--resume run); else how=(--run run "${new[@]}"); fi
          if (( attempt == 2 )); then succeed 2 "${how[@]}"; break; fi
          [[ ! -e run/run.json ]] || resumed=$(( resumed + 1 ))
          start 2 "${how[@]}" --watchdog 20
          moment=$(( (RANDOM * 32768 + RANDOM) % limit ))
          sleep "$(( moment / 1000000 )).$(printf %06d $(( moment % 1000000 )))"
          victim=$(( RANDOM % 2 ))
          if [[ -e process.$victim ]] && kill -KILL "$(< process.$victim)" 2> /dev/null; then
            finish
            (( status != 0 )) && killed=$(( killed + 1 ))
          else
            finish
          fi
        done
        same whole run "trial $trial"
        echo "trial $trial: $killed jobs killed so far, $resumed after a resumption"
      done
      echo "$trial trials, $killed jobs killed, $faults faults"
      ;;
  esac
done
(( faults == 0 ))
