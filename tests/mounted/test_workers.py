"""The processes that carry out stops: whoever of them dies or stands, nobody else is hurt."""

import contextlib
import errno
import json
import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import pytest

from gcorefs.kernel.ending_signals import ENDING
from gcorefs.kernel.proc import task_status, tasks
from gcorefs.process.errors import Reason
from tests.conftest import Mount, Target, wait_until_gone
from tests.mounted import faultpoints as at
from tests.mounted.conftest import (
    errno_of,
    eventually,
    gcorefs,
    is_free,
    is_held,
    offset_of,
    opened,
    whole,
)
from tests.mounted.faultpoints import Hold, Point
from tests.mounted.parties import Ledger, Reader

HeldAt = Callable[[Point, int], AbstractContextManager[Hold]]
Spawn = Callable[..., Target]
KILLED = "its worker was killed"


def zygote(mount: Mount) -> int:
    (pid,) = tasks.children(mount.server)
    return pid


def tracer(pid: int) -> int:
    """The worker that holds a process."""
    return task_status.tracer(pid, pid)


def test_each_stop_has_a_process_of_its_own(mount: Mount, spawn: Spawn) -> None:
    first, second = spawn("threads", 1), spawn("threads", 1)
    with opened(mount / first.pid) as one, opened(mount / second.pid) as other:
        assert os.read(one, 4) == os.read(other, 4) == b"\x7fELF"
        tracers = {tracer(first.pid), tracer(second.pid)}
        assert len(tracers) == 2
        assert tracers <= {*tasks.children(zygote(mount))}
        for each in (zygote(mount), *tracers):
            assert errno_of(partial(os.open, mount / each, os.O_RDONLY)) == errno.EDEADLK
            mount.expect(f"process {each}: {Reason.SERVER.text}")


def test_no_signal_but_sigkill_ends_a_zygote_or_a_worker(mount: Mount, spawn: Spawn) -> None:
    """A worker that ended in the middle of a stop would leave an EINTR."""
    target = spawn("threads", 1)
    with opened(mount / target.pid) as fd:
        assert os.read(fd, 4) == b"\x7fELF"
        worker = tracer(target.pid)
        for number in (*ENDING, signal.SIGSTKFLT):
            os.kill(worker, number)
            os.kill(zygote(mount), number)
        os.kill(mount.server, signal.SIGSTKFLT)
        assert len(whole(fd)) == os.fstat(fd).st_size
        assert tracer(target.pid) == worker
    eventually(lambda: is_free(target.pid))


def test_a_server_has_a_bell(mount: Mount) -> None:
    """Else its event loop may sleep in a read of a request that was withdrawn (bounded_read.py)."""
    found = task_status.status(mount.server)
    bell = 1 << (signal.SIGSTKFLT - 1)
    assert int(found["SigCgt"], 16) & bell
    assert not (int(found["SigIgn"], 16) | int(found["SigBlk"], 16)) & bell


def test_a_worker_goes_on_with_the_next_stop(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 1)
    used = set()
    for _ in range(20):
        with opened(mount / target.pid) as fd:
            os.read(fd, 4)
            used.add(tracer(target.pid))
        eventually(lambda: is_free(target.pid))
    assert len(used) <= 2  # the one may not be idle yet
    assert used <= {*tasks.children(zygote(mount))}


def test_few_workers_are_kept_when_many_stops_are_over(mount: Mount, spawn: Spawn) -> None:
    targets = [spawn("threads", 1) for _ in range(10)]
    with contextlib.ExitStack() as stack:
        for target in targets:
            os.read(stack.enter_context(opened(mount / target.pid)), 4)
        assert len(tasks.children(zygote(mount))) >= 10
    eventually(lambda: len(tasks.children(zygote(mount))) <= 2)


def state(mount: Mount, pid: int) -> tuple[str, str]:
    """The state of a stop in the status, and why."""
    found = json.loads((mount.path / ".gcorefs" / "status").read_bytes())["stops"]
    (stop,) = (each for each in found if each["pid"] == pid)
    return stop["state"], stop["why"]


def test_a_worker_that_is_killed_is_the_end_of_its_stop_alone(mount: Mount, spawn: Spawn) -> None:
    target, other = spawn("bulk", 64), spawn("threads", 1)
    mount.expect(f"process {target.pid}: {KILLED}")
    mount.expect(Reason.LET_GO.text)
    with opened(mount / target.pid) as fd, opened(mount / other.pid) as beside:
        header = os.pread(fd, 4096, 0)
        os.pread(beside, 4, 0)
        os.kill(tracer(target.pid), signal.SIGKILL)
        eventually(lambda: is_free(target.pid))
        # What was read ahead is of the stop.  Nothing else is to be had.
        size = os.fstat(fd).st_size
        assert errno_of(lambda: os.pread(fd, 4096, size - 4096)) == errno.EIO
        assert os.pread(fd, 4096, 0) == header
        eventually(lambda: state(mount, target.pid)[0] == "let go")
        assert state(mount, target.pid) == ("let go", KILLED)
        assert is_held(other.pid)
        assert os.pread(beside, 4, 0) == b"\x7fELF"
    with opened(mount / target.pid) as fd:
        assert os.read(fd, 4) == b"\x7fELF"
    eventually(lambda: is_free(target.pid) and is_free(other.pid))


def read_until_it_fails(fd: int, offset: int, found: set[bytes]) -> None:
    with contextlib.suppress(OSError):
        while True:
            found.add(os.pread(fd, 8, offset))


def test_no_byte_is_read_that_is_written_after_the_worker_was_killed(
    mount: Mount, spawn: Spawn
) -> None:
    """Its process counts on while a reader is in the middle of it."""
    mount.expect(KILLED)
    mount.allow(Reason.LET_GO.text)
    target = spawn("counter")
    for _ in range(30):
        with opened(mount / target.pid) as fd:
            offset = offset_of(os.pread(fd, 65536, 0), int(target.truth["a"], 16))
            count = os.pread(fd, 8, offset)
            found: set[bytes] = set()
            reader = threading.Thread(target=read_until_it_fails, args=(fd, offset, found))
            reader.start()
            os.kill(tracer(target.pid), signal.SIGKILL)
            reader.join(60)
            assert not reader.is_alive()
            assert found <= {count}
        eventually(partial(is_free, target.pid))


def test_a_server_that_stands_keeps_nobody_past_max_stop(
    mount_with: Callable[..., Mount], spawn: Spawn
) -> None:
    mount = mount_with("max_stop=0.5")
    mount.expect("it was stopped for 0.5 s")
    target = spawn("threads", 1)
    with opened(mount / target.pid) as fd:
        os.read(fd, 4)
        assert is_held(target.pid)
        server = mount.server
        os.kill(server, signal.SIGSTOP)
        try:
            eventually(lambda: is_free(target.pid))
        finally:
            os.kill(server, signal.SIGCONT)
        last = os.fstat(fd).st_size - 4096
        eventually(lambda: errno_of(lambda: os.pread(fd, 4096, last)) == errno.EIO)
    mount.expect(Reason.LET_GO.text)


def test_a_parent_hears_of_a_death_while_the_server_stands(
    mount: Mount, ledger: Callable[[], Ledger]
) -> None:
    target = ledger()
    with opened(mount / target.pid) as fd:
        os.read(fd, 4)
        server = mount.server
        os.kill(server, signal.SIGSTOP)
        try:
            os.kill(target.pid, signal.SIGKILL)
            target.hear(signal.SIGKILL)
        finally:
            os.kill(server, signal.SIGCONT)


def test_without_a_zygote_there_are_no_new_stops_and_everything_else(
    mount_with: Callable[..., Mount], spawn: Spawn
) -> None:
    mount = mount_with()  # nobody else's: it is of little use afterwards
    held, other = (spawn("threads", 1) for _ in range(2))
    with opened(mount / held.pid) as fd:
        os.read(fd, 4)
        pid = zygote(mount)
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
        assert is_held(held.pid)
        assert whole(fd)[:4] == b"\x7fELF"
        with opened(mount / other.pid) as refused:
            mount.expect(f"process {other.pid}: {Reason.NO_WORKER.text}")
            assert errno_of(lambda: os.read(refused, 4)) == errno.EIO
    eventually(lambda: is_free(held.pid))
    with opened(mount / held.pid) as fd:  # its worker is still there
        assert os.read(fd, 4) == b"\x7fELF"
    assert str(held.pid) in os.listdir(mount.path)


def test_workers_end_with_the_mount(unmounted: Mount, spawn: Spawn) -> None:
    unmounted.make()
    target = spawn("threads", 1)
    with opened(unmounted / target.pid) as fd:
        os.read(fd, 4)
    first = zygote(unmounted)
    workers = tasks.children(first)
    assert gcorefs("umount", unmounted.path).returncode == 0
    for pid in (first, *workers):
        wait_until_gone(pid)


WHERE = [
    at.BEFORE_SEIZE,
    at.SEIZED_ALL,
    at.RECORDED_ALL,
    at.PINNED,
    at.SECOND_DOOR,
    at.SMAPS,
    at.ASSEMBLED,
]
BETWEEN = [
    at.INTERRUPTED_ONE,
    at.INTERRUPTED_ALL,
    at.STOPPED_ONE,
    at.REPAIRED_ONE,
    at.RECORDED_ONE,
]
"""Threads stand interrupted and not yet repaired.  SIGKILL of their worker leaves each of them the
EINTR that any tracer's stop gives (docs/limits.md)."""


@pytest.mark.parametrize("point", [*WHERE, *BETWEEN], ids=str)
def test_a_worker_that_is_killed_at_a_step_hurts_nobody(
    point: Point, ledger: Callable[[], Ledger], held_at: HeldAt, unmounted: Mount
) -> None:
    unmounted.make()
    target = ledger()
    unmounted.expect(f"process {target.pid}: {KILLED}")
    unmounted.expect(f"process {target.pid}: {Reason.SURPRISE.text}")
    reader = Reader(str(unmounted / target.pid), int(target.truth["memory"], 16))
    try:
        with held_at(point, target.pid) as hold:
            reader.ask("open")
            reader.ask("read")
            hold.wait()
            (worker,) = tasks.children(zygote(unmounted))
            target.signal(3)
            os.kill(worker, signal.SIGKILL)
            assert [reader.answer(), reader.answer()] == [0, errno.EIO]
    finally:
        reader.kill()
        reader.end()
    target.assert_unhurt(eintr=1 if point in BETWEEN else 0)
    with opened(unmounted / target.pid) as fd:
        assert os.read(fd, 4) == b"\x7fELF"
    eventually(lambda: is_free(target.pid))


def has_one_thread(pid: int) -> bool:
    try:
        return tasks.tids(pid) == [pid]
    except ProcessLookupError:  # it was one too many
        return True


def test_a_worker_that_goes_on_keeps_no_thread(mount: Mount, spawn: Spawn) -> None:
    """The end of a header with many threads is made by a thread of its own."""
    target = spawn("threads", 150)
    for _ in range(3):
        with opened(mount / target.pid) as fd:
            assert os.pread(fd, 4, 0) == b"\x7fELF"
            whole(fd)
        eventually(lambda: is_free(target.pid))
    for worker in tasks.children(zygote(mount)):
        eventually(partial(has_one_thread, worker))
