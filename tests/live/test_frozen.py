"""A frozen cgroup (cgroups(7)): it stays frozen, and thaws as if there had been no stop."""

from collections.abc import Callable, Iterator

import pytest

from gcorefs.kernel.proc import tasks
from tests.cgroups import Freezer
from tests.conftest import Target
from tests.live.accounts import assert_free, held

Spawn = Callable[..., Target]

CALL = "nanosleep"


@pytest.fixture(params=["v1", "v2"])
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
    freezer.thaw()
    assert_free(target.pid)
    assert target.ask("blocked") == {"blocked": True}
    counts = target.ask("counts")
    assert (counts["spurious"], counts["genuine"], counts["other"]) == (0, 0, 0), counts
    target.kill()


def test_what_is_frozen_has_a_core_and_stays_frozen(freezer: Freezer, sleeper: Target) -> None:
    freezer.freeze()
    threads = len(tasks.tids(sleeper.pid))
    with held(sleeper.pid, stop_timeout=0.5) as snapshot:
        # In a freezer of version 1 a thread sleeps where no stop reaches it, and its record has
        # what /proc shows; in one of version 2 it stops (kernel/signal.c, do_freezer_trap).
        assert snapshot.unresponsive_threads == (threads if freezer.is_v1 else 0)
        assert len(snapshot.read(0, snapshot.size)) == snapshot.size
        assert freezer.is_frozen
    freezer.wait()
    assert_free(sleeper.pid)


def test_thawed_while_it_is_held_it_runs_when_it_is_let_go(
    freezer: Freezer, sleeper: Target
) -> None:
    freezer.freeze()
    with held(sleeper.pid, stop_timeout=0.5) as snapshot:
        freezer.thaw()
        assert len(snapshot.read(0, snapshot.size)) == snapshot.size
    assert sleeper.ask("blocked") == {"blocked": True}


def test_frozen_while_it_is_held_it_is_frozen_when_it_is_let_go(
    freezer: Freezer, sleeper: Target
) -> None:
    with held(sleeper.pid) as snapshot:
        assert snapshot.unresponsive_threads == 0
        freezer.freeze()
        assert len(snapshot.read(0, snapshot.size)) == snapshot.size
    freezer.wait()
    assert_free(sleeper.pid)
