"""A mount beside a process that gets no CPU."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from gcorefs.kernel.proc import task_status, tasks
from tests.conftest import Mount, Target, wait_until_gone
from tests.mounted.conftest import eventually, family, is_free, opened
from tests.quota import Quota, hogged, starve


@pytest.fixture
def quota() -> Iterator[Quota]:
    with hogged() as quota:
        yield quota


@pytest.fixture
def target(spawn: Callable[..., Target], quota: Quota) -> Target:
    target = spawn("eintr", "semop")
    starve(quota, target)
    return target


@pytest.fixture
def quick(unmounted: Mount) -> Iterator[Mount]:
    unmounted.make("stop_timeout=0.05")
    server = unmounted.server
    yield unmounted
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, signal.SIGTERM)
    wait_until_gone(server)


def open_once(mount: Mount, target: Target) -> None:
    with opened(mount / target.pid) as fd:
        assert os.pread(fd, 4, 0) == b"\x7fELF"


def is_late(mount: Mount) -> bool:
    return "except threads that have not stopped yet" in mount.log.read_text()


def test_a_thread_that_is_late_keeps_nobody_out_and_sees_nothing(
    quick: Mount, target: Target, quota: Quota
) -> None:
    for _ in range(3):
        open_once(quick, target)
    eventually(lambda: is_late(quick))
    assert "2 threads (2 did not stop, 2 got no CPU)" in quick.log.read_text()
    tids = tasks.tids(target.pid)
    tracers = {task_status.tracer(target.pid, tid) for tid in tids} - {0}
    assert len(tracers) == 1 and tracers <= {*family(quick.server)}
    quota.lift()
    eventually(lambda: is_free(target.pid))
    assert target.ask("blocked") == {"blocked": True}
    counts = target.ask("counts")
    assert (counts["spurious"], counts["genuine"], counts["other"]) == (0, 0, 0), counts


def test_a_thread_that_is_late_keeps_no_server_from_its_end(
    quick: Mount, target: Target, quota: Quota
) -> None:
    open_once(quick, target)
    eventually(lambda: is_late(quick))
    os.kill(quick.server, signal.SIGTERM)
    eventually(lambda: not os.path.ismount(quick.path))
    eventually(lambda: is_free(target.pid))
