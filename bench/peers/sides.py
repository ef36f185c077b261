"""What run.py and generation.py share: programs that take turns in short slices while all others are stopped."""
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import threading

PATIENCE = 90  # seconds until a program without torch.compile is ready, and for one slice of a first try: likewise


def note(*words):
    print(*words, file=sys.stderr, flush=True)


class TooSlow(RuntimeError):
    pass


class Side:
    """One program: a process that is stopped unless it is its turn. run(limit) is one slice: it appends milliseconds
    to `slices`. finish() is called after the last one."""

    environment = {}

    def __init__(self, command, threads):
        self.command, self.threads = [str(word) for word in command], threads
        self.process, self.slices = None, []

    def start(self, limit=None):
        environment = os.environ | self.environment | {"OMP_NUM_THREADS": str(self.threads),
                                                       "PYTHONDONTWRITEBYTECODE": "1"}
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

    def finish(self):
        pass

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


def take_turns(sides, rounds):
    """Slices of all sides in turn, after a round to warm up. Where memory is short, each slice starts its program
    anew."""
    together = sum(side.need for side in sides) < 0.8 * available_memory()
    if together:
        for side in sides:
            side.start()
    for number in range(rounds + 1):
        for side in sides:
            if not together:
                side.start()
            side.run()
            if number == 0:
                side.slices = side.slices[-1:]  # it only says how long a slice is
            if number == rounds:
                side.finish()
            if not together:
                side.stop()
        note(f"  round {number} of {rounds}")
    for side in sides:
        side.stop()
        side.slices = side.slices[1:]


def available_memory():
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024


def interpreters(module):
    """Those of PEERS_PYTHON that import a module: [(interpreter, the module's version)]."""
    found = []
    for python in os.environ.get("PEERS_PYTHON", "python3").split(":"):
        try:
            show = f"import {module}; print(getattr({module}, '__version__', ''))"
            version = subprocess.run([python, "-c", show], capture_output=True, text=True, check=True).stdout.strip()
            found.append((python, version))
        except (OSError, subprocess.CalledProcessError):
            note(f"{python} does not import {module}: left out")
    return found


def find_program(name, path):
    """A built program in a folder; `path` may be the program itself. None if it is not there."""
    for binary in (path, path / name, path / "peers" / name, path / "bench" / "peers" / name):
        if binary.is_file() and binary.name == name and os.access(binary, os.X_OK):
            return binary.resolve()


def machine():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()
