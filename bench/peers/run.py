"""Compares a training step with PyTorch's: python3 run.py FOLDER_OR_BINARY [--workloads a,b2,c] [--rounds 7] ...

Starts our program and PyTorch's for each workload, each with one and with two threads, lets them take turns in short
slices while all others are stopped, and prints ratios. PEERS_PYTHON names the interpreters, separated by colons.
"""
import argparse
import datetime
import os
import pathlib
import signal
import statistics
import sys

from sides import PATIENCE, Side, TooSlow, find_program, interpreters, machine, note, take_turns

HERE = pathlib.Path(__file__).resolve().parent
HOPELESS = 1.5  # times slower than with the other number of threads: not tried any longer
FAR_BEHIND = 10  # times slower in its first step than the fastest form of PyTorch so far: left out, and said
# what it is, forms, form the goal is about (none: the fastest), goal
ROWS = {
    "a": ("makeMoE as published", ("published", "grouped", "padded"), "published", 2.2),
    "b": ("GPT-2 small with experts", ("loop", "grouped", "padded"), None, 1.3),
    "b2": ("the same, 2 layers", ("loop", "grouped", "padded"), None, 1.3),
    "c": ("64 small experts, V 65", ("loop", "grouped", "padded"), None, 1.5),
    "cv": ("64 small experts, V 50,257", ("loop", "grouped", "padded"), None, 1.5),
    "dense": ("dense GPT-2 124M", ("dense",), None, None),
}


class Stepping(Side):
    """A program that makes training steps."""

    clock = "ms"  # or cpu_ms
    seconds = 1.5  # of a slice

    def run(self, limit=None):
        """Its figure is the median of its steps, the first left out where there are three or more: it finds another's
        data in the cache."""
        steps = max(1, round(self.seconds * 1e3 / self.step_ms)) if self.slices else 1
        times = self.ask(f"step {steps}", limit)[self.clock]
        self.slices.append(statistics.median(times[1:] if len(times) > 2 else times))

    @property
    def step_ms(self):
        return min(self.slices)

    def finish(self):
        self.kept = self.ask("kept")["kept"]


def sides_of(workload, ours, pythons, threads, with_compile):
    """{row: {threads: side}}; row is (interpreter's number or -1, form)."""
    rows = {(-1, "ours"): {n: Stepping([ours, "--workload", workload, "--threads", n], n) for n in threads}}
    for number, (python, _) in enumerate(pythons):
        for form in ROWS[workload][1]:
            command = [python, HERE / "step.py", workload, "--form", form, "--threads"]
            rows[number, form] = {n: Stepping(command + [n], n) for n in threads}
            if with_compile and workload == "a" and form != "published":
                rows[number, form + " compiled"] = {n: Stepping(command + [n, "--compile"], n) for n in threads}
    return rows


def choose(workload, rows):
    """Each side alone for a moment: what the goal is about goes on, and the fastest form of each interpreter.
    Returns what was left out because it is far too slow."""
    left_out, fastest = [], float("inf")
    for row, by_threads in list(rows.items()):
        limit = PATIENCE if row[0] >= 0 and "compiled" not in row[1] else None
        for n, side in list(by_threads.items()):
            try:
                side.start(limit)
                side.run(limit)
                if row[0] >= 0:
                    fastest = min(fastest, side.step_ms)
                    if side.step_ms > FAR_BEHIND * fastest and row[1] != ROWS[workload][2]:
                        raise TooSlow(f"{side.step_ms:.0f} ms a step, more than {FAR_BEHIND} times {fastest:.0f} ms")
                if side.step_ms < HOPELESS * min(other.step_ms for other in by_threads.values() if other.slices):
                    side.run()
                side.need = side.bytes
            except TooSlow as error:  # with more threads it would still be far behind
                left_out.append(f"{row[1]}, {n} thread{'s' * (n > 1)}: {error}")
                note(f"  {left_out[-1]}: left out")
                for other in [other for other in by_threads if other >= n]:
                    del by_threads[other]
                break
            except RuntimeError as error:
                note(f"  {error}: left out")
                del by_threads[n]
                continue
            finally:
                side.stop()
            note(f"  {row[1]}, {side.about['name']}, {n} thread{'s' * (n > 1)}: {side.step_ms:.1f} ms alone")
        if not by_threads:
            del rows[row]
        least = min((side.step_ms for side in by_threads.values()), default=0)
        for n in [n for n, side in by_threads.items() if row[0] >= 0 and side.step_ms > HOPELESS * least]:
            del by_threads[n]
    for number in {number for number, _ in rows if number >= 0}:
        forms = [row for row in rows if row[0] == number and row[1] != ROWS[workload][2]]
        forms.sort(key=lambda row: min(side.step_ms for side in rows[row].values()))
        for row in forms[1:]:
            if "compiled" not in row[1]:
                del rows[row]
    sides = [side for by_threads in rows.values() for side in by_threads.values()]
    for side in sides:
        side.slices = [side.step_ms]  # how long a step is, to plan the next slice
    return left_out


def compare(workload, rows, left_out):
    """Prints the lines of one workload."""
    what, _, goal_form, goal = ROWS[workload]
    ours = rows.pop((-1, "ours"))
    median = lambda side: statistics.median(side.slices)
    fastest = lambda by_threads: min(by_threads.values(), key=median)
    ratio = lambda peer, mine: statistics.median(p / m for p, m in zip(peer.slices, mine.slices))
    show = lambda by_threads: [f"{median(by_threads[n]):9.1f}" if n in by_threads else "        -" for n in (1, 2)]
    mine = fastest(ours)
    judged = [row for row in rows if goal_form in (None, row[1])]
    judged = min(judged, key=lambda row: median(fastest(rows[row]))) if judged and goal else None
    print(f"({workload}) {what}: {mine.about['parameters']:,} parameters, loss before the first step "
          f"{mine.about['loss']:.2f}, {mine.kept:.0%} of pairs computed")
    print("  {:<28}{}{}".format("moegpt", *show(ours)))
    for row, by_threads in sorted(rows.items(), key=lambda item: median(fastest(item[1]))):
        peer = fastest(by_threads)
        single = ratio(by_threads[1], ours[1]) if 1 in by_threads and 1 in ours else float("nan")
        best = ratio(peer, mine)
        verdict = ""
        if row == judged:
            verdict = f"   goal {goal:.1f}   " + ("ok" if best >= goal else "short")
        about = peer.about
        print("  {:<28}{}{}{:9.2f}{:9.2f}{}".format(f"{about['name']} {row[1]}", *show(by_threads), single, best, verdict))
        problems = [] if about["parameters"] == mine.about["parameters"] else [f"{about['parameters']:,} parameters"]
        if abs(about["loss"] - mine.about["loss"]) > 0.1 * mine.about["loss"]:
            problems.append(f"first loss {about['loss']:.2f}")
        if abs(peer.kept - mine.kept) > 0.1:
            problems.append(f"{peer.kept:.0%} of pairs computed")
        if problems:
            print("    not the same:", ", ".join(problems))
    for what in left_out:
        print("  left out:", what)
    print(flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", type=pathlib.Path, help="the built program, or a folder it is in")
    parser.add_argument("--workloads", default="a,b2,c,cv,dense", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--slice", type=float, default=Stepping.seconds, help="seconds")
    parser.add_argument("--threads", default="1,2", help="numbers of threads to try")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: the processor's time of one "
                        "thread, where other programs run beside")
    parser.add_argument("--compile", action="store_true", help="rows with torch.compile in (a): minutes more")
    args = parser.parse_args()
    ours, pythons = find_program("ours", args.ours), interpreters("torch")
    if not ours:
        sys.exit(f"no program called 'ours' in {args.ours}: build bench/peers/ours.cpp and name its folder")
    if not pythons:
        sys.exit("no interpreter imports torch: see bench/peers/README.md, and name them in PEERS_PYTHON")
    workloads = args.workloads.split(",")
    threads = [int(n) for n in args.threads.split(",")]
    Stepping.seconds = args.slice
    if args.clock == "cpu":
        Stepping.clock, threads = "cpu_ms", [1]
    unknown = [name for name in workloads if name not in ROWS]
    if unknown:
        sys.exit(f"no workload is called {unknown[0]}: use {', '.join(ROWS)}")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no stopped process is left behind
    print(f"{datetime.date.today()}, {machine()}, {os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}, "
          f"torch {', '.join(version for _, version in pythons)}")
    print(f"milliseconds ({args.clock}) of a training step, medians; ratios are medians over rounds in turn, best: each side with the "
          "better\nnumber of threads\n")
    print(f"  {'':<28}{'1 thread':>9}{'2':>9}{'ratio 1':>9}{'best':>9}\n", flush=True)
    for workload in workloads:
        note(f"({workload})")
        rows = sides_of(workload, ours, pythons, threads, args.compile)
        try:
            left_out = choose(workload, rows)
            take_turns([side for by_threads in rows.values() for side in by_threads.values()], args.rounds)
            compare(workload, rows, left_out)
        finally:
            for by_threads in rows.values():
                for side in by_threads.values():
                    side.stop()


if __name__ == "__main__":
    main()
