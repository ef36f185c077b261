"""Compares a training step with PyTorch's: python3 run.py FOLDER_OR_BINARY [--workloads a,b2,c] [--rounds 7] ...

Starts our program and PyTorch's for each workload, each with one and with two threads, lets them take turns in short
slices while all others are stopped, and prints ratios. PEERS_PYTHON names the interpreters, separated by colons.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
HOPELESS = 1.5  # times slower than with the other number of threads: not tried any longer
FAR_BEHIND = 10  # times slower in its first step than the fastest form of PyTorch so far: left out, and said
PATIENCE = 90  # seconds until a form without torch.compile has made its first steps, and for one step: likewise
# what it is, forms, form the goal is about (none: the fastest), goal
ROWS = {
    "a": ("makeMoE as published", ("published", "grouped", "padded"), "published", 2.2),
    "b": ("GPT-2 small with experts", ("loop", "grouped", "padded"), None, 1.3),
    "b2": ("the same, 2 layers", ("loop", "grouped", "padded"), None, 1.3),
    "c": ("64 small experts, V 65", ("loop", "grouped", "padded"), None, 1.5),
    "cv": ("64 small experts, V 50,257", ("loop", "grouped", "padded"), None, 1.5),
    "dense": ("dense GPT-2 124M", ("dense",), None, None),
}


def note(*words):
    print(*words, file=sys.stderr, flush=True)


class TooSlow(RuntimeError):
    pass


class Side:
    """One program: a process that is stopped unless it is its turn."""

    clock = "ms"  # or cpu_ms

    def __init__(self, command, threads):
        self.command, self.threads = [str(word) for word in command], threads
        self.process, self.slices = None, []

    def start(self, limit=None):
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=environment)
        self.about = self.answer(limit)
        self.pause()

    def answer(self, limit=None):
        """The next line of JSON; a program that takes more than `limit` seconds is ended."""
        timer = threading.Timer(limit, self.process.kill) if limit else None
        if timer:
            timer.start()
        try:
            return self.read()
        except RuntimeError:
            if timer and not timer.is_alive():
                raise TooSlow(f"no answer in {limit:.0f} s") from None
            raise
        finally:
            if timer:
                timer.cancel()

    def read(self):
        line = self.process.stdout.readline()
        while line and not line.startswith("{"):  # what libraries say when they are loaded
            line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.command)} ended with code {self.process.wait()}")
        return json.loads(line)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def ask(self, command, limit=None):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.answer(limit)
        self.pause()
        return answer

    def run(self, seconds, limit=None):
        """One slice; its figure is the median of its steps, the first left out where there are three or more:
        it finds another's data in the cache."""
        steps = max(1, round(seconds * 1e3 / self.step_ms)) if self.slices else 1
        times = self.ask(f"step {steps}", limit)[self.clock]
        self.slices.append(statistics.median(times[1:] if len(times) > 2 else times))

    @property
    def step_ms(self):
        return min(self.slices)

    @property
    def bytes(self):
        """The most memory the process had."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process = None


def available_memory():
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024


def interpreters():
    """Those that have PyTorch, each once."""
    found = []
    for python in os.environ.get("PEERS_PYTHON", "python3").split(":"):
        try:
            version = subprocess.run([python, "-c", "import torch; print(torch.__version__)"], capture_output=True,
                                     text=True, check=True).stdout.strip()
            found.append((python, version))
        except (OSError, subprocess.CalledProcessError):
            note(f"{python} does not import torch: left out")
    return found


def find_ours(path):
    for binary in (path, path / "ours", path / "peers" / "ours", path / "bench" / "peers" / "ours"):
        if binary.is_file() and os.access(binary, os.X_OK):
            return binary
    sys.exit(f"no program called 'ours' in {path}: build bench/peers/ours.cpp and name its folder")


def sides_of(workload, ours, pythons, threads, with_compile):
    """{row: {threads: side}}; row is (interpreter's number or -1, form)."""
    rows = {(-1, "ours"): {n: Side([ours, "--workload", workload, "--threads", n], n) for n in threads}}
    for number, (python, _) in enumerate(pythons):
        for form in ROWS[workload][1]:
            command = [python, HERE / "step.py", workload, "--form", form, "--threads"]
            rows[number, form] = {n: Side(command + [n], n) for n in threads}
            if with_compile and workload == "a" and form != "published":
                rows[number, form + " compiled"] = {n: Side(command + [n, "--compile"], n) for n in threads}
    return rows


def choose(workload, rows, seconds):
    """Each side alone for a moment: what the goal is about goes on, and the fastest form of each interpreter.
    Returns whether all that go on fit into memory at once, and what was left out because it is far too slow."""
    room = available_memory()
    left_out, fastest = [], float("inf")
    for row, by_threads in list(rows.items()):
        limit = PATIENCE if row[0] >= 0 and "compiled" not in row[1] else None
        for n, side in list(by_threads.items()):
            try:
                side.start(limit)
                side.run(seconds, limit)
                if row[0] >= 0:
                    fastest = min(fastest, side.step_ms)
                    if side.step_ms > FAR_BEHIND * fastest and row[1] != ROWS[workload][2]:
                        raise TooSlow(f"{side.step_ms:.0f} ms a step, more than {FAR_BEHIND} times {fastest:.0f} ms")
                if side.step_ms < HOPELESS * min(other.step_ms for other in by_threads.values() if other.slices):
                    side.run(seconds)
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
    return sum(side.need for side in sides) < 0.8 * room, left_out


def take_turns(rows, rounds, seconds, together):
    """Slices of all sides in turn. Where memory is short, each slice starts its program anew."""
    sides = [side for by_threads in rows.values() for side in by_threads.values()]
    if together:
        for side in sides:
            side.start()
    for number in range(rounds + 1):
        for side in sides:
            if not together:
                side.start()
            side.run(seconds)
            if number == 0:
                side.slices = side.slices[-1:]  # a warm-up: it only says how long a step is
            if number == rounds:
                side.kept = side.ask("kept")["kept"]
            if not together:
                side.stop()
        note(f"  round {number} of {rounds}")
    for side in sides:
        side.stop()
        side.slices = side.slices[1:]


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


def machine():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", type=pathlib.Path, help="the built program, or a folder it is in")
    parser.add_argument("--workloads", default="a,b2,c,cv,dense", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--slice", type=float, default=1.5, help="seconds")
    parser.add_argument("--threads", default="1,2", help="numbers of threads to try")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: the processor's time of one "
                        "thread, where other programs run beside")
    parser.add_argument("--compile", action="store_true", help="rows with torch.compile in (a): minutes more")
    args = parser.parse_args()
    ours, pythons = find_ours(args.ours), interpreters()
    if not pythons:
        sys.exit("no interpreter imports torch: see bench/peers/README.md, and name them in PEERS_PYTHON")
    workloads = args.workloads.split(",")
    threads = [int(n) for n in args.threads.split(",")]
    if args.clock == "cpu":
        Side.clock, threads = "cpu_ms", [1]
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
            together, left_out = choose(workload, rows, args.slice)
            take_turns(rows, args.rounds, args.slice, together)
            compare(workload, rows, left_out)
        finally:
            for by_threads in rows.values():
                for side in by_threads.values():
                    side.stop()


if __name__ == "__main__":
    main()
