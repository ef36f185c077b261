"""Times whole training steps of one workload in PyTorch, when told to:
  python3 step.py WORKLOAD --form FORM --threads N
says on a line of JSON that it is ready, and answers each line "step n" on stdin with one of JSON: {"ms": [each of n
steps], "cpu_ms": [the processor's time], "loss": of the last}, and "kept" with {"kept": share of pairs that are not dropped}.
A step: zero_grad(set_to_none) + forward + backward + AdamW. Batches are made before.
"""
import argparse
import json
import os
import sys
import time

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("workload")
arguments.add_argument("--form", default="grouped", help="published, loop, grouped or padded; dense")
arguments.add_argument("--threads", type=int, default=1)
arguments.add_argument("--compile", action="store_true")
arguments.add_argument("--warmup", type=int, default=2)
arguments.add_argument("--optimizer", default="fastest", help="fused, foreach or single")
args = arguments.parse_args()

# Libraries read these when they are loaded: OpenBLAS has a pool that torch.set_num_threads does not know.
for library in "OMP", "MKL", "OPENBLAS", "BLIS":
    os.environ[f"{library}_NUM_THREADS"] = str(args.threads)

import torch  # noqa: E402

from models import GPT, WORKLOADS, batch, kept_share  # noqa: E402

torch.set_flush_denormal(True)  # of this thread and of those it starts: before the first parallel region
torch.set_num_threads(args.threads)
torch.set_num_interop_threads(1)
torch.manual_seed(1337)


def now():
    return time.perf_counter() * 1e3


OPTIMIZERS = {"fused": dict(fused=True), "foreach": dict(foreach=True), "single": dict(foreach=False)}


def make_optimizer(name, learning_rate):
    return torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, **OPTIMIZERS[name])


def time_optimizer(name):
    """ms per update, the lesser of two; infinite where this version does not have it. The weights stay."""
    try:
        optimizer = make_optimizer(name, 0.0)
        times = []
        for _ in range(3):
            start = now()
            optimizer.step()
            times.append(now() - start)
        return min(times[1:])
    except (RuntimeError, TypeError, ValueError):
        return float("inf")


w = WORKLOADS[args.workload]
if args.form == "published":
    w.heads_apart = True
model = GPT(w, "dense" if not w.experts else "loop" if args.form == "published" else args.form)
batches = [batch(w, number) for number in range(8)]
loss_of = torch.compile(model) if args.compile else model

first = model(*batches[0])
first.backward()
update_ms = {name: time_optimizer(name) for name in OPTIMIZERS} if args.optimizer == "fastest" else {args.optimizer: 0}
optimizer_name = min(update_ms, key=update_ms.get)
optimizer = make_optimizer(optimizer_name, w.learning_rate)
steps = 0


def step():
    global steps
    data = batches[steps % len(batches)]
    steps += 1
    optimizer.zero_grad(set_to_none=True)
    loss = loss_of(*data)
    loss.backward()
    optimizer.step()
    return loss


def say(**what):
    print(json.dumps(what), flush=True)


for _ in range(args.warmup):
    step()
say(name=f"torch {torch.__version__.split('+')[0]}", form=args.form, threads=args.threads, optimizer=optimizer_name,
    update_ms={name: round(ms, 2) for name, ms in update_ms.items() if ms < float("inf")},
    parameters=sum(p.numel() for p in model.parameters()), loss=first.item())
del first
for line in sys.stdin:
    command = line.split()
    if command == ["kept"]:
        say(kept=kept_share(model, batches[0]))
        continue
    times, cpu_times = [], []
    for _ in range(int(command[1])):
        start, cpu_start = now(), time.process_time()
        loss = step()
        times.append(now() - start)
        cpu_times.append(1e3 * (time.process_time() - cpu_start))
    say(ms=times, cpu_ms=cpu_times, loss=loss.item())
