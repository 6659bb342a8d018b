"""How long after SIGKILL the parent of a process hears of its death.

    python -m tests.benchmarks.death [--rounds N]

A tracee is its parent's to wait for only once its tracer has reaped it (ptrace(2)), so
whoever holds a process can hold up that news.  Nobody holds it, as the control; the mount
holds it, its core ready; and SIGKILL comes at some moment of the stop itself.
"""

import argparse
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.conftest import CFLAGS, GCOREFS, TARGETS, Mount, Target

PROGRAMS = ("parent", "threads", "vforker", "churn")
KINDS = (
    ("1 thread beside the leader", "threads", "1"),
    ("10 threads", "threads", "10"),
    ("1,000 threads", "threads", "1000"),
    ("the leader dead", "churn", "leader"),
    ("a thread in vfork", "vforker"),
)

Way = Callable[[Mount, int], AbstractContextManager[None]]


@contextlib.contextmanager
def by_nobody(mount: Mount, pid: int) -> Iterator[None]:
    yield


@contextlib.contextmanager
def by_the_mount(mount: Mount, pid: int) -> Iterator[None]:
    fd = os.open(mount / pid, os.O_RDONLY)
    try:
        os.read(fd, 1)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def during_the_stop(mount: Mount, pid: int) -> Iterator[None]:
    fd = os.open(mount / pid, os.O_RDONLY)
    try:
        time.sleep(random.random() * 0.02)
        yield
    finally:
        os.close(fd)


WAYS: dict[str, Way] = {
    "nobody": by_nobody,
    "the mount": by_the_mount,
    "being stopped": during_the_stop,
}


def news(mount: Mount, argv: list[str], way: Way) -> float:
    """Milliseconds from SIGKILL to the parent's word."""
    target = Target(argv)
    try:
        with way(mount, target.pid):
            begin = time.monotonic_ns()
            os.kill(target.pid, signal.SIGKILL)
            while "at" not in (line := target.line()):
                pass
        assert line["wait"] == signal.SIGKILL
        return float(line["at"] - begin) / 1e6
    finally:
        target.kill()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=30)
    rounds = arguments.parse_args().rounds
    table = Table(title=f"SIGKILL until the parent hears, ms, {rounds} rounds: median (worst)")
    table.add_column("process")
    for way in WAYS:
        table.add_column(way, justify="right")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for program in PROGRAMS:
            source = TARGETS / f"{program}.c"
            subprocess.run(["gcc", *CFLAGS, "-o", folder / program, source], check=True)
        mount = Mount(folder / "mnt", folder / "log")
        mount.path.mkdir()
        mount.make()
        try:
            for title, program, *words in KINDS:
                argv = [str(folder / "parent"), "--times", str(folder / program), *words]
                row = []
                for way in WAYS.values():
                    times = [news(mount, argv, way) for _ in range(rounds)]
                    row.append(f"{statistics.median(times):.2f} ({max(times):.2f})")
                table.add_row(title, *row)
        finally:
            subprocess.run([GCOREFS, "umount", mount.path], check=True)
    Console(width=110).print(table)


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("run as root")
    main()
