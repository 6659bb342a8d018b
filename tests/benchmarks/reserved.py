"""What reserved and hardly touched memory costs: time to copy, and size of the file.

    python -m tests.benchmarks.reserved [--rounds N] [--pages N] [--gib N]

Two processes have written as many pages, one in one piece, the other scattered over as many
gibibytes as --gib says.  Both are copied in turn by cp, from the mount to /dev/shm.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gcorefs.process import procfs
from tests.benchmarks.stop_and_copy import await_release, compile_, run, warm_up
from tests.conftest import GCOREFS, TARGETS, Target

MIB = 1 << 20


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--pages", type=int, default=51_200)
    arguments.add_argument("--gib", type=int, default=100)
    options = arguments.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory(dir="/dev/shm") as shm,
    ):
        measure(options, Path(folder), Path(shm))


def measure(options: argparse.Namespace, folder: Path, shm: Path) -> None:
    program = str(compile_(TARGETS / "reserve.c", folder))
    words = [program, str(options.gib), str(options.pages)]
    targets = {
        "in one piece": Target([program, "1", str(options.pages), "together"]),
        f"scattered over {options.gib} GiB": Target(words),
    }
    mountpoint = folder / "mnt"
    mountpoint.mkdir()
    run(GCOREFS, "mount", mountpoint)
    seconds: dict[str, list[float]] = {way: [] for way in targets}
    sizes: dict[str, int] = {}
    core = shm / "core"
    warm_up(shm, 2 * options.pages * 4096 // MIB)
    tables = {way: procfs.status(target.pid)["VmPTE"] for way, target in targets.items()}
    try:
        for _ in range(options.rounds):
            for way, target in targets.items():
                core.unlink(missing_ok=True)
                begin = time.monotonic()
                run("cp", mountpoint / str(target.pid), core)
                seconds[way].append(time.monotonic() - begin)
                await_release(target.pid)
                sizes[way] = core.stat().st_size
        for way, target in targets.items():
            assert procfs.status(target.pid)["VmPTE"] == tables[way], "page tables grew"
    finally:
        run(GCOREFS, "umount", mountpoint)
        for target in targets.values():
            target.kill()
    report(options, seconds, sizes)


def report(
    options: argparse.Namespace, seconds: dict[str, list[float]], sizes: dict[str, int]
) -> None:
    written = options.pages * 4096
    table = Table(title=f"{written / MIB:.0f} MiB written, {options.rounds} rounds of cp, medians")
    for column in ("pages", "seconds (least to most)", "ratio", "file, MiB", "file / written"):
        table.add_column(column, justify="left" if column == "pages" else "right")
    first = statistics.median(next(iter(seconds.values())))
    for way, times in seconds.items():
        middle = statistics.median(times)
        table.add_row(
            way,
            f"{middle:.3f} ({min(times):.3f} to {max(times):.3f})",
            f"{middle / first:.2f}",
            f"{sizes[way] / MIB:.0f}",
            f"{sizes[way] / written:.2f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("run as root")
    main()
