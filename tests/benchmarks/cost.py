"""The costs of a mount: memory while it serves, processor time while it is idle, a listing."""

import contextlib
import itertools
import re
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from gcorefs.kernel.proc import procfile, task_status
from tests.benchmarks.bench import Bench, await_release, run, seconds
from tests.benchmarks.figures import Relation, Topic
from tests.benchmarks.reading import together
from tests.conftest import Mount, Target, at_least, text_of
from tests.mounted.conftest import family

READERS = (0, 1, 2, 4)
MANY = 10_000
IDLE_SECONDS = 5
PROCESSES = 10_000
OF_MOUNT, OF_PROC = "ls -f of the mount", "ls -f /proc"


def memory(bench: Bench) -> Topic:
    topic = Topic("memory", "What the server holds and does")
    each = bench.options.size
    targets = [bench.target("bulk", max(1, each // 4)) for _ in range(READERS[-1])]
    readers = topic.figure(
        "readers", f"Most resident memory, dd of processes of {each // 4} MiB", "MiB", "readers"
    )
    bench.keep(at_least("vm/max_map_count", 4 * MANY))
    kinds = {
        f"{each} MiB": bench.target("bulk", each),
        f"{MANY:,} mappings": bench.target("mappings", MANY),
        f"{MANY:,} threads": bench.target("threads", MANY),
    }
    kind = topic.figure("kinds", "Most resident memory, one reader of", "MiB")
    for _ in bench.rounds():
        for count in READERS:
            readers.add("the server", most_resident(bench, targets[:count]), count)
        for name, target in kinds.items():
            kind.add(name, most_resident(bench, [target]))
    for name in kinds:
        topic.relate(Relation(f"one reader of {name}, MiB", kind.of(name), "below 80"))
    for few, more in itertools.pairwise(READERS[1:]):
        values = zip(readers.of("the server", few), readers.of("the server", more), strict=True)
        growth = [(b - a) / (more - few) for a, b in values]
        topic.relate(Relation(f"each reader from {few} to {more}, MiB", growth, "at most 16"))
    idle(bench, topic, targets[0])
    return topic


def most_resident(bench: Bench, targets: Sequence[Target]) -> float:
    """MiB of a new server and its workers after all `targets` were read at once."""
    with bench.fresh_mount() as mount:
        with contextlib.ExitStack() as stack:
            for each in targets:
                stack.enter_context(open(mount / each.pid, "rb", buffering=0)).read(1)
            together(
                [["dd", f"if={mount / each.pid}", "of=/dev/null", "bs=1M"] for each in targets]
            )
            status = task_status.status(mount.server)
            peak, now = (int(status[name].split()[0]) for name in ("VmHWM", "VmRSS"))
            resident = peak - now + sum(map(proportional, family(mount.server)))
        for each in targets:
            await_release(each.pid)
    return resident / 1024


def proportional(pid: int) -> int:
    """KiB of a process, of which shared pages count in parts (proc(5), smaps_rollup)."""
    rollup = task_status.parse_status(procfile.read(f"{pid}/smaps_rollup").partition(b"\n")[2])
    return int(rollup["Pss"].split()[0])


def idle(bench: Bench, topic: Topic, target: Target) -> None:
    figure = topic.figure("idle", "Processor time of the server and its workers", "ms/s")
    with bench.fresh_mount("idle_timeout=0") as mount:
        for _ in bench.rounds():
            figure.add("nothing is open", busy(family(mount.server)))
            with open(mount / target.pid, "rb", buffering=0) as file:
                file.read(1)
                figure.add("one process is held, and nobody reads", busy(family(mount.server)))
            await_release(target.pid)


def busy(pids: Sequence[int]) -> float:
    """Milliseconds of processor time of all these in each second."""
    clocks = [~pid << 3 | 2 for pid in pids]  # as clock_getcpuclockid(3) makes it from a pid
    begin = sum(map(time.clock_gettime_ns, clocks))
    time.sleep(IDLE_SECONDS)
    return (sum(map(time.clock_gettime_ns, clocks)) - begin) / 1e6 / IDLE_SECONDS


def listing(bench: Bench) -> Topic:
    topic = Topic("listing", f"Listing {PROCESSES:,} processes")
    bench.keep(at_least("kernel/pid_max", 4 * PROCESSES))
    bench.keep(at_least("kernel/threads-max", 4 * PROCESSES))
    bench.start([str(bench.own("sleepers")), str(PROCESSES)])
    mount = bench.mount()
    figure = topic.figure("listing", "A listing", "ms")
    for _ in bench.rounds():
        for way, path in ((OF_MOUNT, mount.path), (OF_PROC, Path("/proc"))):
            figure.add(way, 1e3 * seconds(partial(run, "ls", "-f", path)))
    topic.relate(figure.over(OF_MOUNT, OF_PROC, aim="at most 3"))
    topic.facts["files of /proc that one listing opens"] = opens(bench, mount)
    topic.facts["processes listed"] = len(run("ls", "-f", mount.path).splitlines()) - 2
    return topic


def opens(bench: Bench, mount: Mount) -> dict[str, int]:
    """How many of each file are opened, by strace(1)."""
    log = bench.folder / "strace"
    command = ["strace", "-f", "-e", "trace=%file", "-o", log, "-p", str(mount.server)]
    tracer = subprocess.Popen(text_of(command), stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    try:
        tracer.stderr.readline()  # the line that it has attached
        run("ls", "-f", mount.path)
    finally:
        tracer.terminate()
        tracer.communicate(timeout=60)
    calls = re.findall(r'(\w+)\(.*"/proc(?:/(?:\d+|self|thread-self))?(/\S*)?"', log.read_text())
    return dict(Counter(f"{call} PID{name or '/'}" for call, name in calls).most_common(12))
