"""The core of a live process, as a file, and the kernel's own core."""

import contextlib
import fcntl
import functools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.policy import Policy, XState
from tests.conftest import Mount, Target
from tests.mounted.conftest import eventually, is_free
from tests.snapshot import Snapshot, find


@pytest.fixture
def spawn(spawn: Callable[..., Target]) -> Iterator[Callable[..., Target]]:
    """Targets that must be let go, at the latest a moment after the test's last close(2).

    A thread that stops late, after the stop has ended, is let go then.
    """
    targets: list[Target] = []

    def start(name: str, *arguments: object, parent: bool = False) -> Target:
        targets.append(spawn(name, *arguments, parent=parent))
        return targets[-1]

    yield start
    for target in targets:
        eventually(functools.partial(is_free, target.pid))


@pytest.fixture
def dump(tmp_path: Path) -> Callable[..., Path]:
    """Write the core of a process.  The process runs on when this returns."""

    def write(pid: int, memory: str = "filter", xstate: XState = "standard") -> Path:
        path = tmp_path / f"ours.{pid}"
        snapshot = Snapshot(find(pid), policy=Policy(memory=memory, xstate=xstate))
        try:
            snapshot.take()
            path.write_bytes(snapshot.read(0, snapshot.size))
        finally:
            snapshot.close()
        return path

    return write


CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")


def kernel_dumps_to(path: Path) -> contextlib.AbstractContextManager[None]:
    """The kernel writes cores to this path plus a pid (as we number it)."""
    return core_pattern_is(f"{path}.%P")


@contextlib.contextmanager
def core_pattern_is(pattern: str) -> Iterator[None]:
    """Set /proc/sys/kernel/core_pattern (core(5)), and restore it afterwards."""
    # The whole machine has one pattern, and other tests may run there.
    with CORE_PATTERN.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = CORE_PATTERN.read_text()
        CORE_PATTERN.write_text(pattern)
        try:
            yield
        finally:
            CORE_PATTERN.write_text(before)


@pytest.fixture
def core_pattern(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "kernel"
    with kernel_dumps_to(path):
        yield path


@pytest.fixture(params=["copy", "mounted"])
def core_file(
    request: pytest.FixtureRequest, mount: Mount, tmp_path: Path
) -> Iterator[Callable[[int], Path]]:
    """The core of a process, as a copy and as the file in the mount.

    While a reader has the latter open, the process stands still.  After the test it must run.
    """
    pids: list[int] = []

    def have(pid: int) -> Path:
        pids.append(pid)
        if request.param == "mounted":
            return mount / pid
        path = tmp_path / f"copy.{pid}"
        subprocess.run(["cp", mount / pid, path], check=True)
        return path

    yield have
    for pid in pids:
        eventually(functools.partial(is_free, pid))


@pytest.fixture
def start() -> Iterator[Callable[..., Target]]:
    """Start a target that is not a C program, by its command.  It is killed after the test."""
    targets: list[Target] = []

    def run(*command: object) -> Target:
        targets.append(Target([str(word) for word in command]))
        return targets[-1]

    yield run
    for target in targets:
        target.kill()
