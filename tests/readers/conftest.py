"""A core of a live process, as a file."""

from collections.abc import Callable
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
