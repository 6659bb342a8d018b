"""A frozen cgroup (cgroups(7)): it stays frozen, and thaws as if there had been no stop."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.kernel.proc import tasks
from tests.conftest import Target
from tests.live.accounts import assert_free, held

Spawn = Callable[..., Target]

V1, V2 = Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup/unified")
CALL = "nanosleep"


class Freezer:
    def __init__(self, hierarchy: Path) -> None:
        self.is_v1 = hierarchy == V1
        self.group = hierarchy / f"gcorefs-test-{os.getpid()}"
        self.group.mkdir()

    def add(self, pid: int) -> None:
        (self.group / "cgroup.procs").write_text(str(pid))

    def set(self, is_frozen: bool) -> None:
        """Ask for it, and wait until it has happened."""
        if self.is_v1:
            (self.group / "freezer.state").write_text("FROZEN" if is_frozen else "THAWED")
        else:
            (self.group / "cgroup.freeze").write_text("1" if is_frozen else "0")
        self.wait(is_frozen)

    @property
    def is_frozen(self) -> bool:
        if self.is_v1:
            return (self.group / "freezer.state").read_text() == "FROZEN\n"
        return "frozen 1" in (self.group / "cgroup.events").read_text().splitlines()

    def wait(self, is_frozen: bool) -> None:
        deadline = time.monotonic() + 20
        while self.is_frozen != is_frozen:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def remove(self) -> None:
        self.set(False)
        # rmdir(2) does not wait until the group is empty.
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError):
                self.group.rmdir()
                return
            assert time.monotonic() < deadline
            time.sleep(0.002)


@pytest.fixture(params=[V1, V2], ids=["v1", "v2"])
def freezer(request: pytest.FixtureRequest) -> Iterator[Freezer]:
    freezer = Freezer(request.param)
    yield freezer
    freezer.remove()


@pytest.fixture
def sleeper(freezer: Freezer, spawn: Spawn) -> Iterator[Target]:
    """It is in a call that a stop would end with EINTR.  After release and thaw it is unhurt."""
    target = spawn("eintr", CALL)
    assert target.ask("blocked") == {"blocked": True}
    freezer.add(target.pid)
    yield target
    freezer.set(False)
    assert_free(target.pid)
    assert target.ask("blocked") == {"blocked": True}
    counts = target.ask("counts")
    assert (counts["spurious"], counts["genuine"], counts["other"]) == (0, 0, 0), counts
    target.kill()


def test_what_is_frozen_has_a_core_and_stays_frozen(freezer: Freezer, sleeper: Target) -> None:
    freezer.set(True)
    threads = len(tasks.tids(sleeper.pid))
    with held(sleeper.pid, stop_timeout=0.5) as snapshot:
        # In a freezer of version 1 a thread sleeps where no stop reaches it, and its record has
        # what /proc shows; in one of version 2 it stops (kernel/signal.c, do_freezer_trap).
        assert snapshot.unresponsive_threads == (threads if freezer.is_v1 else 0)
        assert len(snapshot.read(0, snapshot.size)) == snapshot.size
        assert freezer.is_frozen
    freezer.wait(True)
    assert_free(sleeper.pid)


def test_thawed_while_it_is_held_it_runs_when_it_is_let_go(
    freezer: Freezer, sleeper: Target
) -> None:
    freezer.set(True)
    with held(sleeper.pid, stop_timeout=0.5) as snapshot:
        freezer.set(False)
        assert len(snapshot.read(0, snapshot.size)) == snapshot.size
    assert sleeper.ask("blocked") == {"blocked": True}


def test_frozen_while_it_is_held_it_is_frozen_when_it_is_let_go(
    freezer: Freezer, sleeper: Target
) -> None:
    with held(sleeper.pid) as snapshot:
        assert snapshot.unresponsive_threads == 0
        freezer.set(True)
        assert len(snapshot.read(0, snapshot.size)) == snapshot.size
    freezer.wait(True)
    assert_free(sleeper.pid)
