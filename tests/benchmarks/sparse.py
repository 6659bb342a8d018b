"""The cost of memory that is reserved and hardly touched: time to read, and size of the file.

Several processes have written the same number of pages: one process in one piece, the others at
random places of 100 GiB, or with small gaps between them.
"""

from functools import partial

from gcorefs.kernel.proc import task_status
from tests.benchmarks.bench import MIB, Bench, await_release, run, seconds, warm_up
from tests.benchmarks.figures import Topic, ratio
from tests.conftest import GCOREFS

PAGE = 4096
TOGETHER = "in one piece"
# Gibibytes that are reserved, and the pattern of targets/reserve.c.
SPARSE = {
    "pages at random in 100 GiB": (100, "random"),
    "chunks of 1 to 16 pages, gaps as well": (4, "chunks"),
    "single pages, gaps of 1 to 8 pages": (4, "gaps"),
}


def measure(bench: Bench) -> Topic:
    written = max(1, bench.options.size // 5)
    pages = written * MIB // PAGE
    topic = Topic("sparse", f"Reading {written} MiB of memory that was reserved")
    targets = {
        way: bench.target("reserve", gib, pages, pattern)
        for way, (gib, pattern) in {TOGETHER: (1, "together"), **SPARSE}.items()
    }
    tables = {way: task_status.status(target.pid)["VmPTE"] for way, target in targets.items()}
    core = bench.shm / "core"
    tools = {
        "dd": ("dd bs=1M from the mount to /dev/null", ("dd", "bs=1M", "of=/dev/null", "if={}")),
        "cp": ("cp from the mount to tmpfs", ("cp", "{}", core)),
        "cp --sparse": (
            "cp --sparse=always from the mount to tmpfs",
            ("cp", "--sparse=always", "{}", core),
        ),
        "dump": ("gcorefs dump to tmpfs", (GCOREFS, "dump", "{pid}", "-o", core)),
    }
    figures = {tool: topic.figure(tool, title, "ms") for tool, (title, _) in tools.items()}
    sizes = topic.figure("size", "The file", "MiB")
    warm_up(bench.shm, 2 * written)
    for _ in bench.rounds():
        for tool, (_, command) in tools.items():
            for way, target in targets.items():
                file = bench.mount() / target.pid
                words = [str(word).format(file, pid=target.pid) for word in command]
                figures[tool].add(way, 1e3 * seconds(partial(run, *words)))
                await_release(target.pid)
                if tool == "cp":
                    sizes.add(way, core.stat().st_size / MIB)
                core.unlink(missing_ok=True)
    for way, target in targets.items():
        assert task_status.status(target.pid)["VmPTE"] == tables[way], "page tables grew"
        share = [size / written for size in sizes.of(way)]
        topic.relate(ratio(f"file / written, {way}", share, [1] * len(share)))
    for tool, figure in figures.items():
        for way in SPARSE:
            title = f"{tool}, {way} / {TOGETHER}"
            topic.relate(ratio(title, figure.of(way), figure.of(TOGETHER), "at most 2"))
    return topic
