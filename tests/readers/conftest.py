"""A core of a live process, as a file, and the kernel's own."""

import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.snapshot import Snapshot, find


@pytest.fixture
def dump(tmp_path: Path) -> Callable[[int], Path]:
    """Write the core of a process, which runs on when this returns."""

    def write(pid: int) -> Path:
        path = tmp_path / f"ours.{pid}"
        snapshot = Snapshot(find(pid))
        try:
            snapshot.take()
            path.write_bytes(snapshot.read(0, snapshot.size))
        finally:
            snapshot.close()
        return path

    return write


CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")


@pytest.fixture
def core_pattern(tmp_path: Path) -> Iterator[Path]:
    """The kernel writes cores to this path plus a pid (as we number it), for one test."""
    path = tmp_path / "kernel"
    # There is one for the whole machine, where other tests may run.
    with CORE_PATTERN.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = CORE_PATTERN.read_text()
        CORE_PATTERN.write_text(f"{path}.%P")
        yield path
        CORE_PATTERN.write_text(before)
