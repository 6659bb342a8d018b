"""How long a process stands still while its core is written, as the process itself sees it.

The process sees the longest gap in a thread that looks at the clock every 0.1 ms (bulk.c).  The
kernel's own dump ends the process; its figure is the time until the parent hears of the death.
"""

import os
import resource
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.benchmarks import rivals
from tests.benchmarks.bench import Bench, await_release, run, seconds, warm_up
from tests.benchmarks.figures import Figure, Topic, ratio
from tests.benchmarks.rivals import Rival
from tests.conftest import GCOREFS, Target
from tests.readers.conftest import kernel_dumps_to

KERNEL = "the kernel, of a dying process"
GCORE, CREATEDUMP = rivals.GCORE.name, rivals.CREATEDUMP.name
CP, DUMP = "cp from the mount", "gcorefs dump"
DD = "dd bs=1M from the mount to /dev/null"
CP_COPY, DUMP_COPY = "cp from the mount, hold=copy", "gcorefs dump --hold copy"

Way = Callable[[Bench, int, Path], object]
"""Writes the core of a process to a path."""


def other(rival: Rival) -> Way:
    """A program that names its file itself, perhaps.

    The status is not judged: that of ProcDump is a signal's now and then, with a complete file.
    """

    def take(bench: Bench, pid: int, core: Path) -> None:
        folder = core.with_name("work")
        folder.mkdir()
        said = rival.of(pid, folder).stderr
        files = [*folder.iterdir()]
        if len(files) != 1:
            raise RuntimeError(f"{rival.name} has written {len(files)} files: {said}")
        files[0].rename(core)
        folder.rmdir()

    return take


def cp(*options: str) -> Way:
    return lambda bench, pid, core: run("cp", bench.mount(*options) / pid, core)


WAYS: dict[str, Way] = {
    GCORE: other(rivals.GCORE),
    CREATEDUMP: other(rivals.CREATEDUMP),
    CP: cp(),
    DUMP: lambda bench, pid, core: run(GCOREFS, "dump", pid, "-o", core),
    CP_COPY: cp("hold=copy"),
    DUMP_COPY: lambda bench, pid, core: run(GCOREFS, "dump", pid, "--hold", "copy", "-o", core),
    DD: lambda bench, pid, core: run("dd", f"if={bench.mount() / pid}", "of=/dev/null", "bs=1M"),
}
if rivals.PROCDUMP.is_installed():
    WAYS[rivals.PROCDUMP.name] = other(rivals.PROCDUMP)


def measure(bench: Bench) -> Topic:
    topic = Topic("stopped", "Time stopped while a core is written to memory")
    stopped = topic.figure("stopped", "Stopped", "ms", "MiB")
    taken = topic.figure("taken", "From the command to its end", "ms", "MiB")
    sizes = sorted({max(1, bench.options.size // part) for part in (4, 2, 1)})
    targets = {size: bench.target("bulk", size) for size in sizes}
    core = bench.shm / "core"
    warm_up(bench.shm, 2 * sizes[-1])
    for take in WAYS.values():  # a first time: mounts are made, programs come from the disk
        take(bench, targets[sizes[0]].pid, core)
        core.unlink(missing_ok=True)
    for _ in bench.rounds():
        for size, target in targets.items():
            for way, take in WAYS.items():
                target.ask("gap")
                taken.add(way, 1e3 * seconds(partial(take, bench, target.pid, core)), size)
                await_release(target.pid)
                stopped.add(way, target.ask("gap")["gap"] / 1e6, size)
                if core.exists():
                    take_away(core, size)
            milliseconds = 1e3 * dying(bench, size)
            taken.add(KERNEL, milliseconds, size)
            stopped.add(KERNEL, milliseconds, size)
    relate(topic, stopped, taken)
    return topic


def dying(bench: Bench, size: int) -> float:
    """Seconds from a signal that dumps core until the parent has waited."""
    target = Target(bench.command("bulk", size))
    path = bench.shm / "kernel"
    unlimited = resource.RLIM_INFINITY
    resource.prlimit(target.pid, resource.RLIMIT_CORE, (unlimited, unlimited))
    try:
        with kernel_dumps_to(path):

            def die() -> None:
                os.kill(target.pid, signal.SIGQUIT)
                target.popen.wait(timeout=120)

            result = seconds(die)
        take_away(path.with_name(f"{path.name}.{target.pid}"), size)
    finally:
        target.kill()
    return result


def take_away(core: Path, size: int) -> None:
    """Delete a core that must be complete: a way that writes less would be fast for no reason."""
    if core.stat().st_size < size << 20:
        raise RuntimeError(f"{core} has only {core.stat().st_size} bytes")
    core.unlink()


def relate(topic: Topic, stopped: Figure, taken: Figure) -> None:
    size = stopped.sizes()[-1]
    for way in stopped.values:
        if way not in (GCORE, KERNEL):
            aim = "at most 0.25" if way in (CP_COPY, DUMP_COPY) else ""
            topic.relate(stopped.over(way, GCORE, size, aim))
    topic.relate(
        ratio(
            f"{CP}: stopped / its whole time, {size:,} MiB",
            stopped.of(CP, size),
            taken.of(CP, size),
            "at most 1.1",
        )
    )
