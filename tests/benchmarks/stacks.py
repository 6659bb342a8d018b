"""What @stacks takes, and how long the process stands still for it, beside cp of the whole core."""

import os
from functools import partial
from pathlib import Path

from tests.benchmarks.bench import Bench, await_release, run, seconds
from tests.benchmarks.figures import Topic

STACKS, CP, GCORE = "cp of @stacks", "cp of the whole core", "gcore"
THREADS = (1, 1000)
"""Of the processes of which only the threads count."""


def measure(bench: Bench) -> Topic:
    topic = Topic("stacks", "A core for backtraces alone")
    stopped = topic.figure("stopped", "Stopped", "ms", "MiB")
    size = topic.figure("size", "Size of the core", "KiB", "MiB")
    of_threads = topic.figure("of_threads", "From open to the end of cp", "ms", "threads")
    sizes = sorted({max(1, bench.options.size // part) for part in (4, 1)})
    bulks = {size: bench.target("bulk", size) for size in sizes}
    crowds = {count: bench.target("threads", count) for count in THREADS}
    mount, core = bench.mount(), bench.shm / "core"

    def take(way: str, pid: int) -> None:
        if way == GCORE:
            run("gcore", "-o", core, pid)
            core.with_name(f"{core.name}.{pid}").rename(core)
        else:
            run("cp", (mount.path / "@stacks" / str(pid)) if way == STACKS else mount / pid, core)

    for _ in bench.rounds():
        for mebibytes, target in bulks.items():
            for way in (STACKS, CP, GCORE):
                target.ask("gap")
                take(way, target.pid)
                await_release(target.pid)
                stopped.add(way, target.ask("gap")["gap"] / 1e6, mebibytes)
                size.add(way, _size(core) / 1024, mebibytes)
                core.unlink()
        for count, target in crowds.items():
            for way in (STACKS, CP):
                of_threads.add(way, 1e3 * seconds(partial(take, way, target.pid)), count)
                await_release(target.pid)
                core.unlink()
    for mebibytes in bulks:
        topic.relate(stopped.over(STACKS, CP, mebibytes))
        topic.relate(stopped.over(STACKS, GCORE, mebibytes))
        topic.relate(size.over(STACKS, CP, mebibytes))
    for count in crowds:
        topic.relate(of_threads.over(STACKS, CP, count))
    return topic


def _size(core: Path) -> int:
    return os.stat(core).st_size
