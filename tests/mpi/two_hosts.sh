#!/bin/bash
# two_hosts.sh CASE FOLDER MPIRUN PROGRAM [RATE]: the program of train.sh on two hosts, which are network namespaces
# with a link of RATE (1gbit) between them. Needs root. Cases:
#   train    a run; prints its median step, and what rank 0 sent and waited
#   cut      the link is cut during a run: the job ends by the watchdog, and goes on over a new link
# Names of hosts are those of this machine's network: it is for one run at a time.
set -euo pipefail
which=$1 folder=$2 mpirun=$3 program=$(realpath "$4") rate=${5:-1gbit}
shift 4
mkdir -p "$folder"
cd "$folder"
ip netns add moegpt-one 2> /dev/null || { echo "skipped: this user cannot add a network"; exit 77; }
trap 'ip netns del moegpt-one; ip netns del moegpt-two 2> /dev/null' EXIT
ip netns add moegpt-two
link() {
  ip link add moegpt netns moegpt-one type veth peer name moegpt netns moegpt-two
  local i=0 name
  for name in moegpt-one moegpt-two; do
    ip -n $name addr add 10.99.7.$(( ++i ))/24 dev moegpt
    ip -n $name link set moegpt up
    ip -n $name link set lo up
    tc -n $name qdisc add dev moegpt root tbf rate "$rate" burst 256kb latency 400ms
  done
}
link
# What a launcher calls instead of ssh: agent [-x] ADDRESS COMMAND...
cat > agent <<'END'
#!/bin/bash
while [[ $1 == -* ]]; do shift; done
name=moegpt-one
[[ $1 != 10.99.7.2 ]] || name=moegpt-two
shift
exec ip netns exec $name unshare -u bash -c "hostname $name; $*"
END
chmod +x agent
for (( i = 0; i < 300; ++i )); do echo "To be, or not to be: that is question $i."; done > text.txt
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
case $(basename "$mpirun") in
  *mpich*)
    export UCX_TLS=tcp,self UCX_NET_DEVICES=moegpt
    job=("$mpirun" -launcher ssh -launcher-exec "$PWD/agent" -iface moegpt -hosts 10.99.7.1,10.99.7.2) ;;
  *)
    job=("$mpirun" --mca plm_rsh_agent "$PWD/agent" --host 10.99.7.1,10.99.7.2 --bind-to none
      --mca oob_tcp_keepalive_time 3 --mca oob_tcp_keepalive_intvl 1 --mca oob_tcp_keepalive_probes 3
      --mca pml ob1 --mca btl tcp,self --mca btl_tcp_if_include 10.99.7.0/24 --mca oob_tcp_if_include 10.99.7.0/24) ;;
esac
start() {
  timeout -k 5 100 ip netns exec moegpt-one unshare -u bash -c 'hostname moegpt-one; exec "$@"' _ \
    "${job[@]}" -n 2 "$program" --threads 1 "$@" > out.txt 2> err.txt &
}
status=0
finish() { status=0; wait $! || status=$?; }
new=(--data text.txt --no-peak --steps 60 --eval-every 0 --checkpoint-every 10 --batch 64)

rm -rf whole run
start --run whole "${new[@]}"
finish
(( status == 0 )) || { cat err.txt >&2; exit 1; }
case $which in
  train)
    sed -nE 's/.*"rank_bytes":\[([0-9]*),.*"rank_waiting":\[([-+.e0-9]*),.*"time":([.0-9]*).*/\1 \2 \3/p' whole/metrics.jsonl |
      awk 'NR > 1 { print $3 - before, $1, $2 } { before = $3 }' | sort -n |
      awk -v what="$(basename "$mpirun"), $rate" '{ line[NR] = $0 } END { split(line[int((NR + 1) / 2)], v)
        printf "%s: median step %.1f ms; rank 0 sent %d bytes and waited %.1f ms in it\n", what, 1e3 * v[1], v[2], 1e3 * v[3] }'
    ;;
  cut)
    start --run run "${new[@]}" --watchdog "${WATCHDOG:-15}"
    until grep -q '"step":15,' run/metrics.jsonl 2> /dev/null; do
      kill -0 $! 2> /dev/null || { cat err.txt >&2; exit 1; }
      sleep 0.02
    done
    begin=$SECONDS
    ip -n moegpt-two link set moegpt down
    finish
    echo "ended with $status, $(( SECONDS - begin )) s after the link was cut"
    (( status != 0 && status != 124 )) || { cat err.txt >&2; exit 1; }
    grep "no progress\|lost communication\|MPI_A" err.txt || cat err.txt
    ip -n moegpt-two link del moegpt
    for (( i = 0; i < 100; ++i )); do   # the rank on the other host ends by its own watchdog
      [[ -n $(ip netns pids moegpt-two) ]] || break
      sleep 0.1
    done
    link
    start --resume run
    finish
    (( status == 0 )) || { cat err.txt >&2; exit 1; }
    cmp whole/model.safetensors run/model.safetensors
    echo "$(grep 'goes on after' err.txt): the same bits at the end"
    ;;
esac
