"""Compares generation with PyTorch's and llama.cpp's: python3 generation.py FOLDER [--rounds 7] ...

All programs decode with the same GPT-2 124M, whose random weights are written for the run: one sequence, greedily,
from the same prompt. They take turns while all others are stopped. PEERS_PYTHON names the interpreters, separated by
colons.

A program says on a line of JSON that it is ready, {"name": what it is}, and answers each line "decode COUNT ID..." on
stdin: it forgets all ids, reads those of the line, and COUNT times reads the likeliest next one:
  {"ms": [for each token], "ids": [the likeliest after each], "logits": [every 64th of those after the line's ids]}
"""
import argparse
import datetime
import math
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from sides import PATIENCE, Side, find_program, interpreters, machine, note, take_turns

HERE = pathlib.Path(__file__).resolve().parent
FORMS = ("linear", "transposed", "compiled", "transformers")
BYTES = {"float": 4, "bf16": 2, "int8": 1 + 4 / 32, "F32": 4, "BF16": 2, "Q8_0": 1 + 2 / 32}  # of a weight
OURS = {"float": "float", "bf16": "bf16", "F32": "float", "BF16": "bf16", "Q8_0": "int8"}  # a peer's type, ours
GOAL = {"float": 2.0, "bf16": 1.3}  # over the fastest form of PyTorch; of float also: 80 % of the read bandwidth
TOLERANCE = {"float": 0.002, "bf16": 0.1, "int8": 0.1}  # of logits, relative to ours of float


class Decoding(Side):
    """A program that decodes. A slice is one text."""

    environment = {"THP_MEM_ALLOC_ENABLE": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # huge pages for all
                   "TORCHINDUCTOR_AUTOTUNE_NUM_CHOICES_DISPLAYED": "0",
                   "TORCHINDUCTOR_MAX_AUTOTUNE_REPORT_CHOICES_STATS": "0"}
    command_line = ""

    def run(self, limit=None):
        """Its figure is the median of its tokens, the first left out: it finds another's data in the cache."""
        self.answered = self.ask(self.command_line, limit)
        times = self.answered["ms"]
        self.slices.append(statistics.median(times[1:] or times))


@dataclass
class Row:
    who: str
    form: str
    type: str
    by_threads: dict  # {threads: side}

    @property
    def fastest(self):
        return min(self.by_threads.values(), key=median)

    def name(self, side):
        return " ".join(word for word in (side.about["name"], self.form, self.type) if word)


def run(*command):
    subprocess.run([str(word) for word in command], check=True)


def rows_of(folder, ours, llama, threads, forms):
    """Writes the weights that all use. The first row is the probe of the read bandwidth."""
    weights = folder / "gpt2.safetensors"
    run(ours, "draw", weights)
    row = lambda who, form, type, *command: Row(
        who, form, type, {n: Decoding([*command, "--threads", n], n) for n in threads})
    rows = [row("probe", "", "", ours, "probe")]
    rows += [row("moegpt", "", type, ours, "decode", weights, "--type", type) for type in ("float", "bf16", "int8")]
    for python, version in interpreters("torch"):
        if int(version.split(".")[0]) < 2:
            note(f"{python} has torch {version}, expected 2 or later: left out")
            continue
        rows += [row(python, form, type, python, HERE / "decode.py", weights, "--form", form, "--type", type)
                 for type in ("float", "bf16") for form in forms]
    writers = interpreters("gguf") if llama else []
    if not llama:
        note("no program called decode_llama: llama.cpp was not found when the benchmarks were built, left out")
    elif not writers:
        note("no interpreter imports gguf: llama.cpp is left out")
    for type in ("F32", "BF16", "Q8_0") if writers else ():
        file = folder / f"{type}.gguf"
        run(writers[0][0], "-B", HERE / "to_gguf.py", weights, file, "--type", type)
        rows.append(row("llama.cpp", "", type, llama, file))
    return rows


def choose(rows):
    """Each program alone for one text. Returns the rows that go on: of each peer and type the fastest form, and
    transformers."""
    for row in rows:
        own = row.who in ("probe", "moegpt")
        limit = None if own or row.form == "compiled" else PATIENCE
        for n, side in list(row.by_threads.items()):
            try:
                side.start(limit)
                side.run(limit)
                side.need = side.bytes
                note(f"  {row.name(side)}, {n} thread{'s' * (n > 1)}: {side.slices[-1]:.1f} ms alone")
            except RuntimeError as error:
                if own:
                    raise
                note(f"  {row.form} {row.type}, {n} thread{'s' * (n > 1)}: {error}: left out")
                del row.by_threads[n]
            finally:
                side.stop()
    rows = [row for row in rows if row.by_threads]
    fastest = {}
    for row in rows:
        if row.form != "transformers":
            group = fastest.setdefault((row.who, row.type), row)
            if row.fastest.slices[-1] < group.fastest.slices[-1]:
                fastest[row.who, row.type] = row
    return [row for row in rows if row.form == "transformers" or row is fastest[row.who, row.type]]


def median(side):
    return statistics.median(side.slices)


def ratio(side, other):
    """Of their times, in turn."""
    return statistics.median(a / b for a, b in zip(side.slices, other.slices))


def difference(logits, reference):
    """Root mean square, relative."""
    square = lambda numbers: sum(x * x for x in numbers)
    return math.sqrt(square(a - b for a, b in zip(logits, reference)) / square(reference))


def same(ids, others):
    """How many ids are equal before the first that is not."""
    return next((i for i, (a, b) in enumerate(zip(ids, others)) if a != b), len(ids))


def compare(probe, rows):
    """Prints the table."""
    ours = {row.type: row for row in rows if row.who == "moegpt"}
    weights = ours["float"].fastest.about["weights_met"]
    reference = ours["float"].fastest.answered["logits"]
    bytes_of = lambda row: weights * BYTES[row.type]

    def of_read(row):
        """Bytes per second over those of the probe with as many threads."""
        read = probe.by_threads[row.fastest.threads]
        return bytes_of(row) / read.about["bytes"] * ratio(read, row.fastest)

    def against_ours(row, mine):
        """Ratios with one thread and with the better number, and what the goal says."""
        one = [r.by_threads.get(1) for r in (row, mine)]
        single, best = ratio(*one) if all(one) else math.nan, ratio(row.fastest, mine.fastest)
        text = f"{single:9.2f}{best:7.2f}"
        if row.type in GOAL and row.form != "transformers":
            is_float = row.type == "float"
            reached = best >= GOAL[row.type] or (is_float and of_read(mine) >= 0.8)
            text += (f"   goal {GOAL[row.type]:.1f}{' or 80 % of read' if is_float else ''}, ceiling "
                     f"{1 / of_read(row):.2f}   {'ok' if reached else 'short'}")
        return text

    read = ", ".join(f"{side.about['bytes'] / median(side) / 1e6:.1f} GB/s with {n} thread{'s' * (n > 1)}"
                     for n, side in probe.by_threads.items())
    print(f"{weights:,.0f} weights for each token; memory is read at {read}\n")
    print("  {:<36}{:>8}{:>8}{:>10}{:>7}{:>9}{:>8}{:>7}{:>9}{:>7}".format(
        "", "1 thread", "2", "tokens/s", "GB/s", "of read", "logits", "ids", "ratio 1", "best"))
    for row in rows:
        side = row.fastest
        mine = row if row.who == "moegpt" else ours.get(OURS[row.type])
        times = "".join(f"{median(row.by_threads[n]):8.1f}" if n in row.by_threads else "       -" for n in (1, 2))
        off = difference(side.answered["logits"], reference)
        print(f"  {row.name(side):<36}{times}{1e3 / median(side):10.1f}{bytes_of(row) / median(side) / 1e6:7.1f}"
              f"{of_read(row):9.0%}{off:8.0e}", end="")
        print(f"{same(side.answered['ids'], mine.fastest.answered['ids']):7d}{against_ours(row, mine)}"
              if mine and mine is not row else "")
        if not off <= TOLERANCE[OURS.get(row.type, row.type)]:
            print(f"    not the same: logits differ from those of float by {off:.1%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="where the benchmarks were built")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--tokens", type=int, default=64, help="of a slice")
    parser.add_argument("--threads", default="1,2", help="numbers of threads to try")
    parser.add_argument("--forms", default=",".join(FORMS), help="of PyTorch")
    args = parser.parse_args()
    ours, llama = (find_program(name, args.folder) for name in ("decode_ours", "decode_llama"))
    if not ours:
        sys.exit(f"no program called 'decode_ours' in {args.folder}: build the benchmarks and name their folder")
    if args.prompt < 1 or args.tokens < 1 or args.prompt + args.tokens > 1024:
        sys.exit("--prompt and --tokens: at least 1 each, together at most 1024, the model's context")
    forms = args.forms.split(",")
    unknown = [form for form in forms if form not in FORMS]
    if unknown:
        sys.exit(f"no form is called {unknown[0]}: use {', '.join(FORMS)}")
    prompt = [7919 * i % 50257 for i in range(1, args.prompt + 1)]
    Decoding.command_line = " ".join(["decode", str(args.tokens), *map(str, prompt)])

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no stopped process is left behind
    print(f"{datetime.date.today()}, {machine()}, {os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}")
    print(f"milliseconds of a token, {args.tokens} after a prompt of {args.prompt}, medians; logits: difference from "
          "ours of float; ids: so many as ours before the\nfirst that differs; ratios to ours with weights of the same "
          "width, medians over rounds in turn, best: each side with the better\nnumber of threads\n", flush=True)
    with tempfile.TemporaryDirectory(dir=ours.parent) as folder:
        rows = rows_of(pathlib.Path(folder), ours, llama, [int(n) for n in args.threads.split(",")], forms)
        try:
            rows = choose(rows)
            sides = [side for row in rows for side in row.by_threads.values()]
            for side in sides:
                side.slices = []
            take_turns(sides, args.rounds)
            compare(rows[0], rows[1:])
        finally:
            for row in rows:
                for side in row.by_threads.values():
                    side.stop()


if __name__ == "__main__":
    main()
