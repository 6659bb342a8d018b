"""What BPF saves: the mappings of a process without a walk of its page tables, beside smaps."""

import json
import os

from tests.benchmarks.bench import Bench, await_release
from tests.benchmarks.figures import Topic
from tests.benchmarks.opening import MAPPINGS, opened, ready
from tests.conftest import Mount, Target, at_least

BPF, SMAPS = "bpf=auto", "bpf=off"
SIZES = (1, 4)
"""Times the size of a large process."""


def measure(bench: Bench) -> Topic:
    topic = Topic("bpf", "Mappings from BPF, and from smaps")
    many, size = MAPPINGS[-1], bench.options.size
    bench.keep(at_least("vm/max_map_count", 2 * many))
    mounts = {way: bench.mount(way) for way in (BPF, SMAPS)}
    for way, mount in mounts.items():
        told = json.loads((mount.path / ".gcorefs" / "status").read_text())["mappings"]
        if way == BPF and told != "mappings come from BPF":
            raise RuntimeError(told)
    mapped = bench.target("mappings", many)
    bulks = {size * times: bench.target("bulk", size * times) for times in SIZES}
    opening = topic.figure("opening", "From open to ready", "ms", "mappings")
    stopped = topic.figure("standing", "Open, first byte, close: stopped", "ms", "MiB")
    for _ in bench.rounds():
        for way, mount in mounts.items():
            opening.add(way, opened(mount, mapped.pid), many)
            for mebibytes, bulk in bulks.items():
                stopped.add(way, _stopped(mount, bulk), mebibytes)
    topic.relate(opening.over(BPF, SMAPS, many, "at most 0.6"))
    for mebibytes in bulks:
        topic.relate(stopped.over(BPF, SMAPS, mebibytes))
    return topic


def _stopped(mount: Mount, target: Target) -> float:
    """Milliseconds that a process stands still for the first byte, as it sees that itself."""
    target.ask("gap")
    os.close(ready(mount / target.pid))
    await_release(target.pid)
    return float(target.ask("gap")["gap"]) / 1e6
