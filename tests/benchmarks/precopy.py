"""How long a process stands still, by its size and by how much it writes meanwhile.

Topic `fork` is for hold=fork.  Topic `precopy` needs a kernel that marks written pages; elsewhere
hold=precopy is hold=copy.  One of Debian's:

    python -m tests.vm --kernel 6.12 --memory 9000 .venv/bin/python -m tests.benchmarks precopy
"""

import json
import time

from tests.benchmarks.bench import Bench, await_release, run
from tests.benchmarks.figures import Topic
from tests.conftest import Mount, Target

PRECOPY, COPY, STACKS, GCORE = "cp, hold=precopy", "cp, hold=copy", "cp of @stacks", "gcore"
FORK = "cp, hold=fork"
DIRECTORIES = {PRECOPY: "@hold=precopy", FORK: "@hold=fork", COPY: "@hold=copy", STACKS: "@stacks"}
# If a copy has no room, the process stays held as long as its file is open, and nobody closes it.
ROOM = f"copy_limit={1 << 20}"
PAGES_OF_A_MIB = 256
RATES = (0, 50, 500, -1)
"""MiB of pages that are written in a second; -1: all pages, as fast as it can."""


def measure(bench: Bench) -> Topic:
    topic = Topic("precopy", "How long a process stands still while it runs on")
    return _measured(bench, topic, PRECOPY)


def measure_fork(bench: Bench) -> Topic:
    topic = Topic("fork", "How long a process stands still that forks a child for its memory")
    return _measured(bench, topic, FORK)


def _measured(bench: Bench, topic: Topic, one: str) -> Topic:
    """`one`: the way that is compared with the others."""
    largest = max(4, bench.options.size)
    for page, words in (("small", ()), ("huge", ("huge",))):
        by_size = topic.figure(f"longest_{page}", f"Longest stop, {page} pages, idle", "ms", "MiB")
        total = topic.figure(f"total_{page}", f"All stops, {page} pages, idle", "ms", "MiB")
        targets = {size: bench.target("bulk", size, *words) for size in (largest // 4, largest)}
        for _ in bench.rounds():
            for size, target in targets.items():
                for way in (one, COPY, STACKS, GCORE):
                    longest, told, _ = take(bench, way, target)
                    by_size.add(way, longest, size)
                    if told is not None:
                        total.add(way, told, size)
        for target in targets.values():
            target.kill()
        for size in targets:
            topic.relate(by_size.over(one, STACKS, size), by_size.over(one, GCORE, size))
            topic.relate(total.over(one, STACKS, size))
        grown = topic.figure(
            f"grown_{page}", f"All stops, {page} pages, idle, large or small", "ms"
        )
        for size, way in ((largest, "four times as large"), (largest // 4, "small")):
            for value in total.of(one, size):
                grown.add(way, value)
        topic.relate(grown.over("four times as large", "small"))
    _by_rate(bench, topic, one, largest)
    return topic


def _by_rate(bench: Bench, topic: Topic, one: str, size: int) -> None:
    longest = topic.figure("by_rate", "Longest stop, by what is written", "ms", "MiB/s")
    written = topic.figure("written", "What the process wrote meanwhile", "MiB/s", "MiB/s")
    target = bench.target("bulk", size)
    for _ in bench.rounds():
        for rate in RATES:
            pages = rate * PAGES_OF_A_MIB
            for way in (one, COPY, GCORE):
                target.ask(f"rate {pages}")
                begin = time.monotonic()
                value, _, pages_written = take(bench, way, target)
                seconds = time.monotonic() - begin
                longest.add(way, value, rate)
                written.add(way, pages_written / PAGES_OF_A_MIB / seconds, rate)
            target.ask("rate 0")
    for rate in RATES:
        topic.relate(longest.over(one, GCORE, rate), longest.over(one, COPY, rate))


def take(bench: Bench, way: str, target: Target) -> tuple[float, float | None, int]:
    """The longest stop that the process saw, and the sum of all that gcorefs tells of, in ms; how
    many pages it wrote meanwhile."""
    mount, core = bench.mount(ROOM), bench.shm / "core"
    target.ask("gap")
    told = None
    if way == GCORE:
        run("gcore", "-o", core, target.pid)
        core.with_name(f"{core.name}.{target.pid}").rename(core)
    else:
        path = mount.path / DIRECTORIES[way] / str(target.pid)
        with path.open("rb", 0) as file:
            file.read(1)
            await_release(target.pid)
            told = _told(mount, target.pid)
            run("cp", path, core)
    await_release(target.pid)
    core.unlink()
    answer = target.ask("gap")
    return answer["gap"] / 1e6, told, answer["written"]


def _told(mount: Mount, pid: int) -> float:
    while True:
        status = json.loads((mount.path / ".gcorefs/status").read_bytes())
        (stop,) = (each for each in status["stops"] if each["pid"] == pid)
        if stop["state"] == "copied":
            return float(stop["stopped_ms"])
        time.sleep(0.001)
