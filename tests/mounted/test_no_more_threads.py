"""A server that may not start more threads (pids.max of its control group): an open fails with
EAGAIN and leaves nothing behind, and the server can always be ended."""

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Mount, Target, wait_until_gone
from tests.mounted.conftest import errno_of, eventually, family, is_free, opened

V1 = Path("/sys/fs/cgroup/pids")
V2 = Path("/sys/fs/cgroup")


class Group:
    """A control group that counts threads."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, pid: int) -> None:
        (self._path / "cgroup.procs").write_text(str(pid))

    def leave_room_for(self, threads: int | None) -> None:
        """Allow so many more threads than there are; None: any number."""
        current = int((self._path / "pids.current").read_text())
        limit = "max" if threads is None else str(current + threads)
        (self._path / "pids.max").write_text(limit)


@pytest.fixture
def group() -> Iterator[Group]:
    """Requested first, so that it outlives the server in it."""
    parent = V1 if V1.is_dir() else V2
    if parent is V2:
        (V2 / "cgroup.subtree_control").write_text("+pids")
    path = parent / f"gcorefs-test-{os.getpid()}"
    path.mkdir()
    yield Group(path)

    def is_removed() -> bool:
        with contextlib.suppress(OSError):  # its last process is still ending
            path.rmdir()
        return not path.exists()

    eventually(is_removed)


def read_one(path: Path) -> None:
    with opened(path) as fd:
        os.read(fd, 1)


@pytest.mark.parametrize("options", ["hold=stop", "hold=copy"])
def test_an_open_succeeds_or_fails_with_eagain(
    group: Group, mount_with: Callable[..., Mount], spawn: Callable[..., Target], options: str
) -> None:
    mount = mount_with(options)
    mount.allow("no further thread can be started")
    mount.allow("held, not copied")
    for pid in family(mount.server):
        group.add(pid)
    # Each limit ends at another step; the server keeps some threads for the next call.
    results = []
    for room in range(8):
        target = spawn("threads", 2)
        group.leave_room_for(room)
        results.append(errno_of(partial(read_one, mount / target.pid)))
        eventually(partial(is_free, target.pid))
        group.leave_room_for(None)
        read_one(mount / target.pid)
        eventually(partial(is_free, target.pid))
    assert {*results} <= {0, errno.EAGAIN}
    assert results[0] == errno.EAGAIN


def test_the_server_can_still_be_ended(
    group: Group, mount: Mount, spawn: Callable[..., Target]
) -> None:
    target, other = spawn("threads", 2), spawn("threads", 2)
    mount.allow("no further thread can be started")
    for pid in family(mount.server):
        group.add(pid)
    server = mount.server
    with opened(mount / target.pid) as fd:
        os.read(fd, 1)
        group.leave_room_for(0)
        errno_of(lambda: read_one(mount / other.pid))
        os.kill(server, signal.SIGTERM)
        wait_until_gone(server)
    eventually(lambda: is_free(target.pid))
