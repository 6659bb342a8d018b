"""From open(2) until the core is ready, by threads and by mappings, beside a minimal C program.

That program (seize.c) seizes, interrupts and awaits the same threads, fetches the same register
sets and detaches: what the kernel needs for any stop.  It measures its own time.
"""

import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.benchmarks.bench import Bench, await_release, run, seconds
from tests.benchmarks.figures import Figure, Relation, Topic, ratio
from tests.conftest import Mount, Target, at_least

READY = "gcorefs, open to ready"
BAREST = "seize.c, first seize to last detach"
SMAPS, GCORE = "reading smaps, as cat does", "gcore"
THREADS = (1, 10, 100, 1_000, 5_000, 10_000)
MAPPINGS = (10, 100, 1_000, 10_000, 70_000)
MORE_THREADS, MORE_MAPPINGS = 20_000, 200_000
MOST_FOR_GCORE = 1_000
"""Threads.  gdb 13 takes minutes for ten times as many."""

OPENS_A_ROUND = 10


def ready(file: Path) -> int:
    """An open file whose core is ready."""
    fd = os.open(file, os.O_RDONLY)
    os.pread(fd, 1, 0)
    return fd


def opened(mount: Mount, pid: int) -> float:
    """Milliseconds from open(2) until the core is ready.  All threads run again afterwards."""
    begin = time.monotonic()
    fd = ready(mount / pid)
    taken = time.monotonic() - begin
    os.close(fd)
    await_release(pid)
    return 1e3 * taken


def barest(bench: Bench, pid: int) -> float:
    """Milliseconds."""
    return float(json.loads(run(bench.own("seize"), pid))["released"]) / 1e6


def read_smaps(pid: int) -> None:
    with open(f"/proc/{pid}/smaps", "rb", buffering=0) as file:
        while file.read(128 << 10):
            pass


def gcore(bench: Bench, pid: int) -> None:
    run("gcore", "-o", bench.shm / "core", pid)
    (bench.shm / f"core.{pid}").unlink()


def threads(bench: Bench) -> Topic:
    topic = Topic("threads", "Opening a process of many threads")
    counts = (*THREADS, MORE_THREADS) if bench.options.full else THREADS
    for setting in ("kernel/pid_max", "kernel/threads-max"):
        bench.keep(at_least(setting, 4 * sum(counts)))
    targets = {count: bench.target("threads", count) for count in counts}
    figure = topic.figure("threads", "Stopping and recording every thread", "ms", "threads")
    for _ in bench.rounds():
        for count, target in targets.items():
            figure.add(READY, opened(bench.mount(), target.pid), count)
            figure.add(BAREST, barest(bench, target.pid), count)
            if count <= MOST_FOR_GCORE:
                figure.add(GCORE, 1e3 * seconds(partial(gcore, bench, target.pid)), count)
    for count in counts:
        topic.relate(figure.over(READY, BAREST, count, "at most 3" if count >= 1_000 else ""))
    topic.relate(*growth(figure, counts))
    large(bench, topic)
    return topic


def growth(figure: Figure, counts: Sequence[int]) -> list[Relation]:
    """A quadratic step shows as a ratio that grows with the sizes."""
    pairs = [pair for pair in itertools.pairwise(counts) if pair[0] >= 100]
    return [
        ratio(
            f"{READY}: time for one of {more:,} / one of {few:,} {figure.size}",
            [value / more for value in figure.of(READY, more)],
            [value / few for value in figure.of(READY, few)],
            "about 1",
        )
        for few, more in pairs
    ]


def large(bench: Bench, topic: Topic) -> None:
    size = bench.options.size
    target = bench.target("bulk", size)
    figure = topic.figure("large", f"A process of {size} MiB and one more thread", "ms")
    for _ in bench.rounds():
        figure.add(READY, opened(bench.mount(), target.pid))
        figure.add(BAREST, barest(bench, target.pid))
    longer = [a - b for a, b in zip(figure.of(READY), figure.of(BAREST), strict=True)]
    topic.relate(Relation(f"{READY} - {BAREST}, {size} MiB, ms", longer, "at most 2"))


def mappings(bench: Bench) -> Topic:
    topic = Topic("mappings", "Opening a process of many mappings")
    counts = (*MAPPINGS, MORE_MAPPINGS) if bench.options.full else MAPPINGS
    bench.keep(at_least("vm/max_map_count", 2 * counts[-1]))
    targets = {count: bench.target("mappings", count) for count in counts}
    figure = topic.figure("mappings", "Stopping it, and laying out its memory", "ms", "mappings")
    for _ in bench.rounds():
        for count, target in targets.items():
            figure.add(READY, opened(bench.mount(), target.pid), count)
            figure.add(BAREST, barest(bench, target.pid), count)
            figure.add(SMAPS, 1e3 * seconds(partial(read_smaps, target.pid)), count)
            figure.add(GCORE, 1e3 * seconds(partial(gcore, bench, target.pid)), count)
    for count in counts:
        is_many = count >= MAPPINGS[-1]
        topic.relate(figure.over(READY, SMAPS, count, "at most 3" if is_many else ""))
        topic.relate(figure.over(READY, GCORE, count, "at most 0.1" if is_many else ""))
    topic.relate(*growth(figure, counts))
    meanwhile(bench, topic, targets[MAPPINGS[-1]])
    return topic


def meanwhile(bench: Bench, topic: Topic, many: Target) -> None:
    """The effect of another handle's open on the stop of a small process, as that process sees
    it."""
    target = bench.target("bulk", 1)
    alone, beside = "alone", f"while another opens {MAPPINGS[-1]:,} mappings"
    figure = topic.figure("meanwhile", "A small process, open to ready", "ms")
    stopped = topic.figure("meanwhile stopped", "How long it stood still", "ms")
    worst: dict[str, list[float]] = {alone: [], beside: []}
    for _ in bench.rounds():
        for way in (alone, beside):
            gaps = []
            with again_and_again(bench.mount() / many.pid) if way is beside else nobody():
                for _ in range(OPENS_A_ROUND):
                    target.ask("gap")
                    figure.add(way, opened(bench.mount(), target.pid))
                    gaps.append(target.ask("gap")["gap"] / 1e6)
            for gap in gaps:
                stopped.add(way, gap)
            worst[way].append(max(gaps))
        await_release(many.pid)
    topic.relate(
        Relation("beside / alone, medians", [_middle(figure, beside) / _middle(figure, alone)]),
        ratio("longest stop of a round, beside / alone", worst[beside], worst[alone]),
    )


def _middle(figure: Figure, way: str) -> float:
    return statistics.median(figure.of(way))


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    yield


@contextlib.contextmanager
def again_and_again(file: Path) -> Iterator[None]:
    """Another process opens a file, reads its first byte and closes it, in an endless loop."""
    loop = 'while :; do head -c 1 "$0"; done'
    command = ["sh", "-c", loop, str(file)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert other.stdout is not None
    try:
        other.stdout.read(1)  # from now on it is at work
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(other.pid, signal.SIGKILL)
        other.communicate()
