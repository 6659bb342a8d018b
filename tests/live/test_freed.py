"""What is over is freed at once, because the garbage collector runs rarely."""

import contextlib
import os
import weakref
from collections.abc import Callable

import pytest

from gcorefs.policy import Policy
from gcorefs.process.errors import ProcessError
from tests.conftest import Target
from tests.snapshot import Snapshot, find

Spawn = Callable[..., Target]


pytestmark = pytest.mark.usefixtures("nothing_is_collected")


class Owner:
    """It has a snapshot, which calls it at the end."""

    def __init__(self, pid: int) -> None:
        self.snapshot = Snapshot(find(pid), policy=Policy(stop_timeout=5.0), on_end=self.hear)

    def hear(self) -> None:
        pass


def hold(target: Target, is_killed: bool) -> list[weakref.ref[object]]:
    """References to all objects that existed while it was held."""
    owner = Owner(target.pid)
    owner.snapshot.take()
    layout = owner.snapshot.layout
    assert layout.header
    stop, core = owner.snapshot.stop, owner.snapshot.core
    if is_killed:
        target.kill()
        with contextlib.suppress(ProcessError):
            owner.snapshot.read(layout.memory_offset, 4096)
    owner.snapshot.close()
    return [weakref.ref(each) for each in (owner, layout, stop, core)]


@pytest.mark.parametrize("is_killed", [False, True], ids=["let go", "killed"])
@pytest.mark.parametrize("threads", [1, 300])
def test_a_stop_that_is_over(spawn: Spawn, threads: int, is_killed: bool) -> None:
    before = len(os.listdir("/proc/self/fd"))
    seen = hold(spawn("threads", threads), is_killed)
    assert [each() for each in seen] == [None] * len(seen)
    assert len(os.listdir("/proc/self/fd")) <= before + 4  # pipes to the target


def test_a_stop_that_failed(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    owner = Owner(target.pid)
    seen = weakref.ref(owner), weakref.ref(owner.snapshot)
    target.kill()
    with contextlib.suppress(ProcessError):
        owner.snapshot.take()
    owner.snapshot.close()
    del owner
    assert [each() for each in seen] == [None, None]
