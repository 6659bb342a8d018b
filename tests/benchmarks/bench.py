"""Shared by all topics: rounds with a measurement of their noise, programs, targets, mounts.

The ways are measured in turn, round after round, in one run: a machine drifts, but ratios drift
less.  Cores go to /dev/shm, so that no disk has an influence.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcorefs.kernel.proc import task_status, tasks
from tests.conftest import CFLAGS, GCOREFS, TARGETS, Mount, Target

HERE = Path(__file__).parent
MIB = 1 << 20
_NOISE = bytes(16 * MIB)


@dataclass(frozen=True)
class Options:
    rounds: int
    size: int
    """The size of a large process, in mebibytes."""
    full: bool
    """True: also the sizes that take minutes each."""


class Bench:
    """One run.  All that it starts ends with it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.noise: list[dict[str, Any]] = []
        self._stack = contextlib.ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.shm = Path(self._stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        self._mounts: dict[tuple[str, ...], Mount] = {}

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rounds(self) -> Iterator[int]:
        """The numbers of the rounds.  Before each, a fixed piece of work is timed, as a measure of
        noise."""
        for number in range(self.options.rounds):
            begin = time.monotonic()
            zlib.crc32(_NOISE)
            seconds = time.monotonic() - begin
            self.noise.append({"seconds": seconds, "load": os.getloadavg(), "steal": _steal()})
            say(f"round {number + 1} of {self.options.rounds}")
            yield number

    def program(self, source: Path) -> Path:
        """The path of a program, compiled when it is first used."""
        path = self.folder / source.stem
        if not path.exists():
            subprocess.run(["gcc", *CFLAGS, "-O2", "-o", path, source], check=True)
        return path

    def own(self, name: str) -> Path:
        return self.program(HERE / f"{name}.c")

    def command(self, name: str, *words: object) -> list[str]:
        """The command that starts a target."""
        return [str(self.program(TARGETS / f"{name}.c")), *map(str, words)]

    def target(self, name: str, *words: object) -> Target:
        return self.start(self.command(name, *words))

    def start(self, command: list[str]) -> Target:
        target = Target(command)
        self._stack.callback(target.kill)
        return target

    def keep(self, context: contextlib.AbstractContextManager[Any]) -> None:
        """Keep it until the end of the run."""
        self._stack.enter_context(context)

    def mount(self, *options: str) -> Mount:
        """The mount with these options, made when it is first used."""
        if options not in self._mounts:
            self._mounts[options] = self._stack.enter_context(self.fresh_mount(*options))
        return self._mounts[options]

    @contextlib.contextmanager
    def fresh_mount(self, *options: str) -> Iterator[Mount]:
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            mount = Mount(Path(name) / "mnt", Path(name) / "log")
            mount.path.mkdir()
            mount.make(*options)
            try:
                yield mount
            finally:
                run(GCOREFS, "umount", "--lazy", mount.path)

    def static(self, size: int) -> Path:
        """A file of `size` MiB that comes from one buffer, in a mount like ours (static.py)."""
        mountpoint = Path(tempfile.mkdtemp(dir=self.folder))
        command = [sys.executable, "-m", "tests.benchmarks.static", mountpoint, size]
        target = Target([str(word) for word in command])
        self._stack.callback(target.kill)
        self._stack.callback(target.popen.wait, timeout=20)
        self._stack.callback(run, "fusermount3", "-u", "-z", mountpoint)
        return mountpoint / "static"


def _steal() -> int:
    """Ticks that the hypervisor gave to others (proc(5), /proc/stat)."""
    return int(Path("/proc/stat").read_text().split()[8])


def say(text: str) -> None:
    """Show progress on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def run(*command: object, cwd: Path | None = None) -> str:
    """Run a command to its end.  Returns its output."""
    words = [str(word) for word in command]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=600, cwd=cwd)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def seconds(call: Callable[[], object]) -> float:
    begin = time.monotonic()
    call()
    return time.monotonic() - begin


def await_release(pid: int) -> None:
    """Wait until every thread runs again, a moment after the last close(2) of the file."""
    for tid in tasks.tids(pid):
        while task_status.tracer(pid, tid):
            time.sleep(0.0001)


def warm_up(shm: Path, mebibytes: int) -> None:
    """Touch as much memory as the cores will take: a virtual machine gets it only then."""
    with (shm / "warm").open("wb") as file:
        for _ in range(mebibytes):
            file.write(bytes(MIB))
    (shm / "warm").unlink()
