"""A process that dies while its core is made: its open file has an error, and is never empty."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.process.errors import Reason
from tests.conftest import Mount, Target
from tests.live.test_fork import state
from tests.mounted import faultpoints as at
from tests.mounted.conftest import errno_of, eventually, opened
from tests.mounted.faultpoints import Point
from tests.mounted.test_faults import HeldAt

Spawn = Callable[..., Target]


@pytest.mark.parametrize("point", [at.BEFORE_SEIZE, at.SEIZED_ALL, at.RECORDED_ALL], ids=str)
def test_the_file_of_a_process_that_dies_is_not_empty(
    point: Point, spawn: Spawn, held_at: HeldAt, unmounted: Mount, tmp_path: Path
) -> None:
    """tar and sendfile(2) would take a size of 0 for all that there is, and never read."""
    unmounted.make()
    for reason in (Reason.DIED, Reason.GONE):
        unmounted.allow(reason.text)
    target = spawn("threads", 1)
    path = unmounted / target.pid
    with held_at(point, target.pid) as hold, opened(path) as fd:
        hold.wait()
        os.kill(target.pid, signal.SIGKILL)
        hold.go_on()
        number = errno_of(lambda: os.read(fd, 1))
        assert number in (errno.EIO, errno.ESRCH)
        eventually(lambda: state(target.pid) == "Z")  # its parent has not reaped it
        with open(tmp_path / "out", "wb") as out:
            assert errno_of(lambda: os.fstat(fd)) == number
            assert errno_of(lambda: os.sendfile(out.fileno(), fd, 0, 1 << 20)) == number
        assert errno_of(lambda: shutil.copyfile(f"/proc/self/fd/{fd}", tmp_path / "out")) in (
            errno.EIO,
            errno.ESRCH,
        )
