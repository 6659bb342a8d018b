"""How long a process stands still while its core is written, and how fast the bytes come.

    python -m tests.benchmarks.stop_and_copy [--size MIB] [--rounds N] [--json FILE]

Ways to a core are taken in turn, round after round, in one run: machines drift, ratios less.
The time stopped is what the process itself saw: the longest gap in a thread that looks at the
clock every 0.1 ms.  Cores go to /dev/shm, so that no disk has a say.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.conftest import CFLAGS, GCOREFS, TARGETS, Target

HERE = Path(__file__).parent
GIB = 1 << 30


def compile_(source: Path, folder: Path) -> Path:
    program = folder / source.stem
    subprocess.run(["gcc", *CFLAGS, "-O2", "-o", program, source], check=True)
    return program


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


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
    raw = compile_(HERE / "raw.c", folder)
    target = Target([str(compile_(TARGETS / "bulk.c", folder)), str(options.size)])
    mountpoint = folder / "mnt"
    mountpoint.mkdir()
    run(GCOREFS, "mount", mountpoint)
    core = shm / "core"
    file = mountpoint / str(target.pid)

    def read_raw() -> None:
        run(raw, target.pid, target.truth["start"], target.truth["size"])

    def gcore() -> None:
        run("gcore", "-o", core, target.pid)
        (shm / f"core.{target.pid}").rename(core)

    ways: dict[str, Callable[[], None]] = {
        "process_vm_readv in C, no core": read_raw,
        "gcore": gcore,
        "cp from the mount": lambda: run("cp", file, core),
        "dd bs=1M from the mount to /dev/null": lambda: run(
            "dd", f"if={file}", "of=/dev/null", "bs=1M"
        ),
        "gcorefs dump": lambda: run(GCOREFS, "dump", target.pid, "-o", core),
        "cp of that core, tmpfs to tmpfs": lambda: run("cp", core, shm / "copy"),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    stopped: dict[str, list[float]] = {way: [] for way in ways}
    warm_up(shm, 3 * options.size)
    try:
        for _ in range(options.rounds):
            for way, take in ways.items():
                if not way.startswith("cp of"):  # nobody is to pay for another's old core
                    core.unlink(missing_ok=True)
                target.ask("gap")
                begin = time.monotonic()
                take()
                seconds[way].append(time.monotonic() - begin)
                await_release(target.pid)
                stopped[way].append(target.ask("gap")["gap"] / 1e9)
                if way.startswith("cp of"):
                    (shm / "copy").unlink()
    finally:
        run(GCOREFS, "umount", mountpoint)
        target.kill()
    report(options, seconds, stopped)


def warm_up(shm: Path, mebibytes: int) -> None:
    """Touch as much memory as the cores will take: a virtual machine gets it only then."""
    with (shm / "warm").open("wb") as file:
        for _ in range(mebibytes):
            file.write(bytes(1 << 20))
    (shm / "warm").unlink()


def await_release(pid: int) -> None:
    while "\nTracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.0001)


def report(
    options: argparse.Namespace, seconds: dict[str, list[float]], stopped: dict[str, list[float]]
) -> None:
    size = options.size * (1 << 20)
    table = Table(
        title=f"{options.size} MiB in 4 KiB pages, {options.rounds} rounds, medians (least to most)"
    )
    for column in ("way", "seconds", "GiB/s", "stopped, ms", "stopped / gcore's"):
        table.add_column(column, justify="left" if column == "way" else "right")
    gcore = statistics.median(stopped["gcore"])
    for way, times in seconds.items():
        middle, still = statistics.median(times), statistics.median(stopped[way])
        table.add_row(
            way,
            f"{middle:.3f} ({min(times):.3f} to {max(times):.3f})",
            f"{size / GIB / middle:.2f}",
            f"{still * 1e3:.1f} ({min(stopped[way]) * 1e3:.1f} to {max(stopped[way]) * 1e3:.1f})",
            f"{still / gcore:.3f}",
        )
    Console(width=140).print(table)
    if options.json:
        options.json.write_text(json.dumps({"seconds": seconds, "stopped": stopped}, indent=1))


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("run as root")
    main()
