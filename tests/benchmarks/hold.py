"""How long a process stands still with hold=copy, beside hold=stop and gdb's gcore.

    python -m tests.benchmarks.hold [--size MIB] [--rounds N] [--json FILE]

As stop_and_copy does it: ways in turn, round after round, in one run; the time stopped is what
the process itself saw; cores go to /dev/shm.  The first round is for nobody: a virtual machine
gets its memory when it is first touched.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.stop_and_copy import await_release, compile_, report, run, warm_up
from tests.conftest import GCOREFS, TARGETS, Target


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--size", type=int, default=1024, metavar="MIB")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--json", type=Path, metavar="FILE")
    options = arguments.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory(dir="/dev/shm") as shm,
    ):
        measure(options, Path(folder), Path(shm))


def measure(options: argparse.Namespace, folder: Path, shm: Path) -> None:
    target = Target([str(compile_(TARGETS / "bulk.c", folder)), str(options.size)])
    core = shm / "core"
    mountpoints = {hold: folder / hold for hold in ("stop", "copy")}

    def gcore() -> None:
        run("gcore", "-o", core, target.pid)
        (shm / f"core.{target.pid}").rename(core)

    ways: dict[str, Callable[[], None]] = {"gcore": gcore}
    for hold, mountpoint in mountpoints.items():
        mountpoint.mkdir()
        limit = f"copy_limit={2 * options.size}"
        run(GCOREFS, "mount", "-o", f"hold={hold},{limit}", mountpoint)
        file = mountpoint / str(target.pid)
        ways[f"cp, hold={hold}"] = lambda file=file: run("cp", file, core)  # type: ignore[misc]
        words = ("--hold", hold, "--copy-limit", 2 * options.size)
        ways[f"gcorefs dump --hold {hold}"] = lambda words=words: run(  # type: ignore[misc]
            GCOREFS, "dump", target.pid, "-o", core, *words
        )
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    stopped: dict[str, list[float]] = {way: [] for way in ways}
    warm_up(shm, 3 * options.size)
    try:
        for number in range(options.rounds + 1):
            for way, take in ways.items():
                core.unlink(missing_ok=True)
                target.ask("gap")
                begin = time.monotonic()
                take()
                taken = time.monotonic() - begin
                await_release(target.pid)
                gap = target.ask("gap")["gap"] / 1e9
                if number:
                    seconds[way].append(taken)
                    stopped[way].append(gap)
    finally:
        for mountpoint in mountpoints.values():
            run(GCOREFS, "umount", mountpoint)
        target.kill()
    report(options, seconds, stopped)


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("run as root")
    main()
