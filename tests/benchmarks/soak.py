"""Many dumps of processes that come and go, and what is left in the server afterwards.

    python -m tests.benchmarks.soak [--dumps N]

Every dump opens the file, reads its header and some memory, and closes it.  Every tenth time a
target is replaced, often while it is held.  Prints the server's memory, descriptors and threads
ten times.  Fails if a target is left stopped or traced.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from gcorefs.kernel.proc import task_status
from tests.conftest import CFLAGS, GCOREFS, TARGETS, Mount, Target

KINDS = (
    ("threads", "5"),
    ("churn", "threads"),
    ("churn", "exec"),
    ("churn", "leader"),
    ("counter",),
)


class Zoo:
    """A changing set of targets."""

    def __init__(self, folder: Path) -> None:
        self._programs: dict[str, Path] = {}
        for name, *_ in KINDS:
            self._programs[name] = folder / name
            subprocess.run(["gcc", *CFLAGS, "-o", folder / name, TARGETS / f"{name}.c"], check=True)
        self.targets = [self._start() for _ in range(6)]

    def _start(self) -> Target:
        name, *arguments = random.choice(KINDS)
        return Target([str(self._programs[name]), *arguments])

    def replace_one(self) -> None:
        place = random.randrange(len(self.targets))
        self.targets[place].kill()
        self.targets[place] = self._start()

    def end(self) -> None:
        for target in self.targets:
            target.kill()


def dump(path: Path, zoo: Zoo, replace: bool) -> str:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        return f"open: {os.strerror(error.errno or 0)}"
    try:
        if replace:
            zoo.replace_one()
        size = os.fstat(fd).st_size
        os.pread(fd, 1 << 16, 0)
        os.pread(fd, 1 << 20, random.randrange(size))
    except OSError as error:
        return f"read: {os.strerror(error.errno or 0)}"
    finally:
        os.close(fd)
    return "whole"


def footprint(pid: int) -> str:
    status = task_status.status(pid)
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return (
        f"VmRSS {int(status['VmRSS'].split()[0]) / 1024:.1f} MiB, "
        f"{descriptors} descriptors, {int(status['Threads'])} threads"
    )


def await_free(targets: list[Target]) -> None:
    deadline = time.monotonic() + 30
    while True:
        states = [state for target in targets for state in target.states().values()]
        if not any(tracer or letter in "tT" for letter, tracer in states):
            return
        if time.monotonic() > deadline:
            sys.exit(f"left stopped or traced: {states}")
        time.sleep(0.01)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--dumps", type=int, default=20_000)
    dumps = arguments.parse_args().dumps
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mount = Mount(folder / "mnt", folder / "log")
        mount.path.mkdir()
        mount.make()
        zoo = Zoo(folder)
        results: Counter[str] = Counter()
        try:
            server = mount.server
            for number in range(1, dumps + 1):
                path = mount / random.choice(zoo.targets).pid
                results[dump(path, zoo, number % 10 == 0)] += 1
                if number % max(1, dumps // 10) == 0:
                    print(f"{number} dumps: {footprint(server)}", flush=True)
            await_free(zoo.targets)
        finally:
            zoo.end()
            with contextlib.suppress(subprocess.CalledProcessError):
                subprocess.run([GCOREFS, "umount", mount.path], check=True)
        for result, count in results.most_common():
            print(f"{count:7d} {result}")
        surprises = [line for line in mount.warnings() if "ERROR" in line or "Traceback" in line]
        if surprises:
            sys.exit("\n".join(surprises[:20]))


if __name__ == "__main__":
    main()
