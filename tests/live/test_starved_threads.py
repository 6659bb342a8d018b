"""Threads that get no CPU: interrupted, and stopped long after their process is let go."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from gcorefs.kernel.proc import task_status, tasks
from gcorefs.policy import Policy
from gcorefs.process import late
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.sources.tracer import Tracer
from tests.conftest import GCOREFS, Target, text_of
from tests.live.accounts import await_free, held
from tests.live.test_tracer import hows
from tests.quota import Quota, hogged, starve
from tests.snapshot import Snapshot, find

Spawn = Callable[..., Target]

STOP_TIMEOUT = 0.2
CALLS = "epoll_wait", "semop"


def unseen(target: Target) -> dict[str, int]:
    assert target.ask("blocked") == {"blocked": True}
    counts = target.ask("counts")
    return {name: counts[name] for name in ("spurious", "other", "genuine")}


@pytest.fixture
def quota() -> Iterator[Quota]:
    with hogged() as quota:
        yield quota


NOTHING = {"spurious": 0, "other": 0, "genuine": 0}


@pytest.mark.parametrize("name", CALLS)
def test_a_thread_that_gets_no_cpu_never_sees_the_stop(
    spawn: Spawn, quota: Quota, name: str
) -> None:
    target = spawn("eintr", name)
    starve(quota, target)
    snapshot = Snapshot(find(target.pid), policy=Policy(stop_timeout=0.05))
    snapshot.take()
    snapshot.close()
    # No other thread is traced, and nobody waits here for the rest.
    assert snapshot.unresponsive_threads == snapshot.starved_threads > 0
    assert set(snapshot.late) <= set(tasks.tids(target.pid))
    quota.lift()
    assert snapshot.wait_late(20)
    assert snapshot.late == []
    await_free(target.pid)
    assert unseen(target) == NOTHING


def test_the_next_stop_takes_over_a_thread_that_is_late(spawn: Spawn, quota: Quota) -> None:
    target = spawn("eintr", "semop")
    starve(quota, target)
    earlier: list[Snapshot] = []
    for _ in range(3):
        snapshot = Snapshot(find(target.pid), policy=Policy(stop_timeout=0.05))
        snapshot.take()
        assert all(each.late == [] for each in earlier)
        assert target.truth["tid"] in tasks.tids(target.pid)
        snapshot.close()
        earlier.append(snapshot)
    # It was always traced by us, so nobody else could trace it.
    assert task_status.tracer(target.pid, target.truth["tid"]) == os.getpid()
    quota.lift()
    with held(target.pid) as last:
        assert last.unresponsive_threads == 0
        assert target.state_letters() == {"t"}
    assert all(each.wait_late(20) for each in earlier)
    await_free(target.pid)
    assert unseen(target) == NOTHING


def test_a_stop_that_is_given_up_at_once_leaves_a_late_thread_to_the_next(
    spawn: Spawn, quota: Quota
) -> None:
    target = spawn("eintr", "epoll_wait")
    starve(quota, target)
    for _ in range(5):
        tracer = Tracer(find(target.pid), Policy(stop_timeout=0.05))
        tracer.start()
        tracer.release()
        tracer.join()
    quota.lift()
    assert tracer.join_late(20)
    await_free(target.pid)
    assert unseen(target) == NOTHING


def test_a_late_thread_that_is_killed_is_reaped_at_once(spawn: Spawn, quota: Quota) -> None:
    target = spawn("eintr", "semop", parent=True)
    starve(quota, target)
    snapshot = Snapshot(find(target.pid), policy=Policy(stop_timeout=0.05))
    snapshot.take()
    snapshot.close()
    assert target.truth["tid"] in snapshot.late
    os.kill(target.pid, signal.SIGKILL)
    quota.lift()
    assert target.line() == {"wait": signal.SIGKILL}
    assert snapshot.wait_late(20)


def test_the_core_says_who_got_no_cpu(spawn: Spawn, quota: Quota) -> None:
    target = spawn("eintr", "semop")
    starve(quota, target)
    tids = tasks.tids(target.pid)
    with held(target.pid, stop_timeout=0.05) as snapshot:
        assert snapshot.provenance is not None
        assert list(snapshot.provenance.no_cpu) == tids
        assert "stopped" not in hows(snapshot).values()
    with (
        pytest.raises(ProcessError) as caught,
        held(target.pid, stop_timeout=0.05, unresponsive="fail"),
    ):
        pass
    assert caught.value.reason is Reason.UNRESPONSIVE
    assert "gets no CPU" in str(caught.value)
    quota.lift()
    await_free(target.pid)
    assert unseen(target) == NOTHING


def test_it_is_looked_at_twice_also_if_the_time_is_over_at_the_first_look(
    spawn: Spawn, quota: Quota, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a busy machine, where we get little CPU ourselves."""
    target = spawn("eintr", "semop")
    starve(quota, target)
    ask = late.Starved.seconds
    told: list[bool] = []

    def ask_and_note(self: late.Starved, tids: Sequence[int]) -> float:
        seconds = ask(self, tids)
        told.append(self.has_compared)
        return seconds

    monkeypatch.setattr(late.Starved, "seconds", ask_and_note)
    with held(target.pid, stop_timeout=0.001) as snapshot:
        assert snapshot.unresponsive_threads > 0
    assert (told[0], told[-1]) == (False, True)
    quota.lift()
    await_free(target.pid)
    assert unseen(target) == NOTHING


def test_time_without_a_cpu_does_not_count(
    spawn: Spawn, quota: Quota, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops after stop_timeout has run out: the quota is lifted only then."""
    target = spawn("eintr", "semop")
    starve(quota, target)
    ask = late.Starved.seconds
    waited: list[float] = []

    def ask_and_lift(self: late.Starved, tids: Sequence[int]) -> float:
        waited.append(ask(self, tids))
        if sum(waited) > STOP_TIMEOUT:
            quota.lift()
        return waited[-1]

    monkeypatch.setattr(late.Starved, "seconds", ask_and_lift)
    with held(target.pid, stop_timeout=STOP_TIMEOUT) as snapshot:
        assert sum(waited) > STOP_TIMEOUT
        assert snapshot.unresponsive_threads == 0
    assert unseen(target) == NOTHING


def test_dump_waits_for_a_thread_that_is_late(spawn: Spawn, quota: Quota, tmp_path: Path) -> None:
    target = spawn("eintr", "semop")
    starve(quota, target)
    core = tmp_path / "core"
    command = [GCOREFS, "dump", "--stop-timeout", "0.05", str(target.pid), "-o", core]
    with subprocess.Popen(text_of(command), stderr=subprocess.PIPE, text=True) as dumper:
        assert dumper.stderr is not None
        line = dumper.stderr.readline()
        assert f"process {target.pid}: runs on; waiting for thread" in line
        assert core.read_bytes()[:4] == b"\x7fELF"
        quota.lift()
        assert dumper.wait(200) == 0
    await_free(target.pid)
    assert unseen(target) == NOTHING
