"""The cost of memory that is reserved and hardly touched: time to copy, and size of the file.

Several processes have written the same number of pages: one process in one piece, the others at
random places of 100 GiB, or with small gaps between them.
"""

from functools import partial

from gcorefs.kernel.proc import task_status
from tests.benchmarks.bench import MIB, Bench, await_release, run, seconds, warm_up
from tests.benchmarks.figures import Topic, ratio

GIB_RESERVED = 100
PAGE = 4096


def measure(bench: Bench) -> Topic:
    written = max(1, bench.options.size // 5)
    pages = written * MIB // PAGE
    topic = Topic("reserved", f"Copying {written} MiB of {GIB_RESERVED} GiB that were reserved")
    together = "in one piece"
    patterns = {
        f"at random in {GIB_RESERVED} GiB": "random",
        f"evenly in {GIB_RESERVED} GiB": "even",
        "gaps of 1 to 8 pages": "gaps",
        "chunks of 1 to 16 pages, gaps as well": "chunks",
    }
    targets = {together: bench.target("reserve", 1, pages, "together")} | {
        way: bench.target("reserve", GIB_RESERVED, pages, pattern)
        for way, pattern in patterns.items()
    }
    tables = {way: task_status.status(target.pid)["VmPTE"] for way, target in targets.items()}
    to_tmpfs = topic.figure("taken", "cp from the mount to tmpfs", "ms")
    to_nowhere = topic.figure("read", "dd bs=1M from the mount to /dev/null", "ms")
    sizes = topic.figure("size", "The file", "MiB")
    core = bench.shm / "core"
    warm_up(bench.shm, 2 * written)
    for _ in bench.rounds():
        for way, target in targets.items():
            file = bench.mount() / target.pid
            to_tmpfs.add(way, 1e3 * seconds(partial(run, "cp", file, core)))
            await_release(target.pid)
            sizes.add(way, core.stat().st_size / MIB)
            core.unlink()
            words = ("dd", f"if={file}", "of=/dev/null", "bs=1M")
            to_nowhere.add(way, 1e3 * seconds(partial(run, *words)))
            await_release(target.pid)
    for way, target in targets.items():
        assert task_status.status(target.pid)["VmPTE"] == tables[way], "page tables grew"
        share = [size / written for size in sizes.of(way)]
        topic.relate(ratio(f"file / written, {way}", share, [1] * len(share)))
    for tool, figure in (("cp", to_tmpfs), ("dd", to_nowhere)):
        for way in patterns:
            title = f"{tool}, {way} / {together}"
            topic.relate(ratio(title, figure.of(way), figure.of(together)))
    return topic
