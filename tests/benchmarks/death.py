"""The time from SIGKILL until the parent of a process hears of its death.

The parent of a tracee can wait for it only after its tracer has reaped it (ptrace(2)), so a tracer
can delay that news.  Three cases: nobody holds the process, as the control; the mount holds it and
its core is ready; SIGKILL comes at some moment of the stop itself.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Topic
from tests.conftest import Mount, Target

KINDS = (
    ("1 thread beside the leader", "threads", "1"),
    ("10 threads", "threads", "10"),
    ("1,000 threads", "threads", "1000"),
    ("the leader dead", "churn", "leader"),
    ("a thread in vfork", "vforker"),
)
DEATHS_A_ROUND = 4

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


def measure(bench: Bench) -> Topic:
    topic = Topic("death", "From SIGKILL until the parent hears of it, by who holds the process")
    mount = bench.mount()
    figures = {title: topic.figure(title, f"A process: {title}", "ms") for title, *_ in KINDS}
    for _ in bench.rounds():
        for title, program, *words in KINDS:
            argv = bench.command("parent", "--times", *bench.command(program, *words))
            for _ in range(DEATHS_A_ROUND):
                for way, held in WAYS.items():
                    figures[title].add(way, news(mount, argv, held))
    return topic


def news(mount: Mount, argv: list[str], way: Way) -> float:
    """Milliseconds from SIGKILL until the parent reports the death."""
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
