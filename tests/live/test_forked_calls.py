"""A thread that waits in a system call makes the calls for hold=fork, and never sees an EINTR."""

import errno
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from gcorefs.arch import HOST
from gcorefs.arch.machine import Machine
from gcorefs.kernel import ptrace
from gcorefs.kernel.proc import tasks
from gcorefs.sources.forking import Parent, fork
from gcorefs.sources.injection import NotInjected
from tests.conftest import Target, wait_until_asleep
from tests.features import needs_call
from tests.live.test_fork import AS_BEFORE, FORK, forked, held
from tests.live.test_interrupted_calls import EVERY, skip_if_it_cannot_be_seized, stopped

Spawn = Callable[..., Target]

pytestmark = pytest.mark.skipif(
    HOST.native.injected is None, reason="no call is made in a process of this machine"
)

SERVED = "a child that closes its files would wait for a server"
ROUNDS = [4, pytest.param(100, marks=pytest.mark.full)]


@pytest.mark.parametrize("rounds", ROUNDS)
@EVERY
def test_a_call_in_which_a_thread_waits_goes_on(
    program: str, name: str, rounds: int, spawn: Spawn
) -> None:
    """The thread that waits in this call makes the calls for us."""
    needs_call(name.removeprefix("fuse_"))
    case = spawn(program, name)
    skip_if_it_cannot_be_seized(case, name)
    for _ in range(rounds):
        assert case.ask("blocked") == {"blocked": True}
        with stopped(case.pid) as tracer:
            parent = Parent(case.pid, tracer.machine, [case.truth["tid"]], (0, 0))
            try:
                tracer.inject(partial(fork, parent))
            except NotInjected as error:
                if str(error).partition(": ")[0] == SERVED:  # of FUSE, or of POSIX messages
                    assert re.match("fuse_|mq_|io_uring_sync_cancel", name)
                else:
                    assert str(error) == "none of its threads is in a call that can be put off"
                    assert is_with_other_mask(case, tracer.machine)
            tracer.release()
            tracer.kill_child()
            tracer.unreaped()  # waits for its end
    assert case.ask("blocked") == {"blocked": True}
    counts = case.ask("counts")
    assert (counts["spurious"], counts["other"], counts["genuine"]) == (0, 0, 0), counts


def is_with_other_mask(case: Target, machine: Machine) -> bool:
    """True if the thread is in a call that waits with another signal mask."""
    call = Path(f"/proc/{case.pid}/task/{case.truth['tid']}/syscall").read_text().split()
    assert machine.injected is not None
    return int(call[0]) in machine.injected.with_other_mask


def test_a_file_of_a_server_is_not_closed_in_a_child(spawn: Spawn) -> None:
    """The server of this FUSE file does not answer, and a close would ask it."""
    case = spawn("eintr", "fuse_read")
    assert case.ask("blocked") == {"blocked": True}
    with forked(case.pid) as snapshot:
        kind, why = held(snapshot)
        assert (kind, why.partition(": ")[0]) == ("copy", SERVED)
    assert case.ask("blocked") == {"blocked": True}
    assert case.ask("counts")["spurious"] == 0


def test_a_call_that_came_back_is_no_call(spawn: Spawn, tmp_path: Path) -> None:
    """Sometimes SIGSYS is on its way to the thread, which looks as if it were in its call."""
    target = spawn("forked", "returned", tmp_path / "lock")
    (tid,) = set(tasks.tids(target.pid)) - {target.pid}

    def ask() -> None:
        ptrace.dispatches_calls(tid)

    for _ in range(100):
        with stopped(target.pid, FORK) as tracer:
            try:
                tracer.inject(ask)
            except OSError as error:
                assert error.errno == errno.EIO
                pytest.skip("the kernel does not tell who gets calls back (6.4)")
            parent = Parent(target.pid, tracer.machine, [tid], (0, 0))
            with pytest.raises(NotInjected, match=r"calls back|put off"):
                tracer.inject(partial(fork, parent))
        assert target.ask("turns")["turns"]
    assert target.ask("look") == AS_BEFORE


def test_a_stack_pointer_into_memory_that_nobody_writes(spawn: Spawn, tmp_path: Path) -> None:
    """A call writes a word to the stack.  If it cannot, nothing there becomes the process's own."""
    target = spawn("forked", "aside", tmp_path / "lock")
    (tid,) = set(tasks.tids(target.pid)) - {target.pid}
    wait_until_asleep(target.pid)
    with stopped(target.pid) as tracer:
        assert tracer.inject(partial(fork, Parent(target.pid, tracer.machine, [tid], (0, 0))))
        tracer.release()
        tracer.kill_child()
        tracer.unreaped()  # waits for its end
    address = target.truth["aside"]
    _, _, about = Path(f"/proc/{target.pid}/smaps").read_text().partition(f"{address:x}-")
    assert next(line for line in about.splitlines() if "Anonymous:" in line).split()[1] == "0"


@pytest.mark.parametrize("mode", ["nowhere", "below"])
def test_a_stack_pointer_that_leads_into_no_memory(spawn: Spawn, tmp_path: Path, mode: str) -> None:
    """Memory that grows down (MAP_GROWSDOWN) does not grow because we read below it."""
    target = spawn("forked", mode, tmp_path / "lock")
    (tid,) = set(tasks.tids(target.pid)) - {target.pid}
    wait_until_asleep(target.pid)
    before = Path(f"/proc/{target.pid}/maps").read_text()
    with stopped(target.pid) as tracer:
        with pytest.raises(NotInjected, match="leads into no memory"):
            tracer.inject(partial(fork, Parent(target.pid, tracer.machine, [tid], (0, 0))))
        tracer.release()
    assert Path(f"/proc/{target.pid}/maps").read_text() == before
