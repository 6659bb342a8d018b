"""What reserved and hardly touched memory costs: time to copy, and size of the file.

Two processes have written as many pages, one in one piece, the other scattered over 100 GiB.
"""

from gcorefs.process import procfs
from tests.benchmarks.bench import MIB, Bench, await_release, run, seconds, warm_up
from tests.benchmarks.figures import Topic, ratio

GIB_RESERVED = 100
PAGE = 4096


def measure(bench: Bench) -> Topic:
    written = max(1, bench.options.size // 5)
    pages = written * MIB // PAGE
    topic = Topic("reserved", f"Copying {written} MiB of {GIB_RESERVED} GiB that were reserved")
    together, scattered = "in one piece", f"scattered over {GIB_RESERVED} GiB"
    targets = {
        together: bench.target("reserve", 1, pages, "together"),
        scattered: bench.target("reserve", GIB_RESERVED, pages),
    }
    tables = {way: procfs.status(target.pid)["VmPTE"] for way, target in targets.items()}
    taken = topic.figure("taken", "cp from the mount to tmpfs", "ms")
    sizes = topic.figure("size", "The file", "MiB")
    core = bench.shm / "core"
    warm_up(bench.shm, 2 * written)
    for _ in bench.rounds():
        for way, target in targets.items():
            file = bench.mount() / target.pid
            taken.add(way, 1e3 * seconds(lambda file=file: run("cp", file, core)))
            await_release(target.pid)
            sizes.add(way, core.stat().st_size / MIB)
            core.unlink()
    for way, target in targets.items():
        assert procfs.status(target.pid)["VmPTE"] == tables[way], "page tables grew"
        share = [size / written for size in sizes.of(way)]
        topic.relate(ratio(f"file / written, {way}", share, [1] * len(share)))
    topic.relate(taken.over(scattered, together))
    return topic
