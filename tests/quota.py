"""A control group that gets almost no CPU, like a starved container, or worse (cgroups(7))."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import Target

PERIOD = 1_000_000
QUOTA = 1_000
"""Microseconds of CPU in each period: the least that the kernel allows (kernel/sched/core.c)."""
HOG = ("sh", "-c", "echo; while :; do :; done")
SHARES = {"cpu.shares": (1024, 262_144), "cpu.weight": (100, 10_000)}
"""The default weight of a group, and the highest one: of version 1 and of version 2."""


class Quota:
    """A control group whose threads get almost no CPU, beside others that want CPU too."""

    def __init__(self) -> None:
        root = Path("/sys/fs/cgroup")
        self.is_v1 = not (root / "cgroup.controllers").exists()
        self._parent = root / "cpu" if self.is_v1 else root
        self.path = self._parent / f"gcorefs-test-{os.getpid()}"
        self.threads = "tasks" if self.is_v1 else "cgroup.threads"
        self._had_controller = self.is_v1

    def make(self) -> None:
        if not self.is_v1:
            control = self._parent / "cgroup.subtree_control"
            self._had_controller = "cpu" in control.read_text().split()
            control.write_text("+cpu")
        self.path.mkdir()

    def limit(self) -> None:
        """Even on a busy machine a hog runs up to the tick that ends its time: into debt."""
        self._share(1)
        if self.is_v1:
            (self.path / "cpu.cfs_period_us").write_text(str(PERIOD))
            (self.path / "cpu.cfs_quota_us").write_text(str(QUOTA))
        else:
            (self.path / "cpu.max").write_text(f"{QUOTA} {PERIOD}")

    def lift(self) -> None:
        if self.is_v1:
            (self.path / "cpu.cfs_quota_us").write_text("-1")
        else:
            (self.path / "cpu.max").write_text("max")
        self._share(0)

    def _share(self, which: int) -> None:
        name = "cpu.shares" if self.is_v1 else "cpu.weight"
        (self.path / name).write_text(str(SHARES[name][which]))

    def take(self, pid: int) -> None:
        """Move a process with all of its threads into the group."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        self.lift()
        for pid in (self.path / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (self._parent / "cgroup.procs").write_text(pid)
        self.path.rmdir()
        if not self._had_controller:
            (self._parent / "cgroup.subtree_control").write_text("-cpu")


@contextlib.contextmanager
def hogged() -> Iterator[Quota]:
    """A group in which other processes want every CPU all the time."""
    quota = Quota()
    quota.make()
    with contextlib.ExitStack() as stack:
        stack.callback(quota.remove)
        # Each CPU has a part of the quota: a target gets what no hog wants on a CPU.
        for cpu in os.sched_getaffinity(0):
            hog = stack.enter_context(
                subprocess.Popen(["taskset", "-c", str(cpu), *HOG], stdout=subprocess.PIPE)
            )
            stack.callback(hog.kill)
            assert hog.stdout is not None
            assert hog.stdout.readline() == b"\n"  # it runs: below the quota it would never start
            quota.take(hog.pid)
        stack.callback(quota.lift)  # this runs first: a process needs a CPU to end
        yield quota


def starve(quota: Quota, target: Target) -> None:
    """Make a program (targets/eintr.c) sleep in its call, and get no CPU as soon as it wakes."""
    assert target.ask("blocked") == {"blocked": True}
    quota.take(target.pid)
    quota.limit()
    before = _throttled(quota)
    while _throttled(quota) < before + 2:  # in debt from now on, because nobody else runs
        time.sleep(0.01)


def _throttled(quota: Quota) -> int:
    """The number of periods in which a thread was kept from running."""
    words = (quota.path / "cpu.stat").read_text().split()
    return int(words[words.index("nr_throttled") + 1])
