"""If an execve(2) does not end, because a file server of the same user does not answer the close of
a file, it delays only its own process.

The kernel reads the program with cred_guard_mutex held (fs/exec.c, bprm_execve).  It closes
close-on-exec files with exec_update_lock held too (begin_new_exec), and the close of a FUSE file
waits for its server.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Timer

import pytest

from gcorefs.kernel.proc import task_stat, tasks
from gcorefs.process.errors import Reason
from gcorefs.steps import Step
from gcorefs.tuning import Tuning
from tests.conftest import Mount, Target
from tests.mounted.conftest import (
    PAGE,
    Pause,
    errno_of,
    eventually,
    family,
    is_free,
    offset_of,
    opened,
    run,
    sleeping_in,
)
from tests.mounted.test_meanwhile import AS_USER
from tests.mounted.test_stuck_reads import Server
from tests.mounted.test_workers import zygote

SOONER = Tuning(take_timeout=5.0)
"""Twenty seconds for a stop that cannot end are more than a test needs."""

SOONEST = Tuning(take_timeout=0.1)
"""The stop is given up, and its tracer too, before an open of the process is refused (held.py)."""

WAITS = {"futex_get_robust_list_common", "ptrace_attach"}
"""Functions of the kernel in which the tracer waits for the execve, in different versions."""

LOOKS = 20
PATIENCE = 60.0
"""Seconds until a held server may go on, so that the test ends; it has failed then."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "hanging")
    yield server
    server.end()


@pytest.fixture
def stop() -> Pause:
    """All checks are done, and nothing is stopped yet."""
    return Pause(Step.STARTING)


@contextlib.contextmanager
def let_at_last(server: Server) -> Iterator[None]:
    timer = Timer(PATIENCE, server.let)
    timer.start()
    yield
    timer.cancel()


def waits_of(server: int) -> set[str]:
    """The functions of the kernel in which its threads and those of its workers sleep."""
    return {wait for pid in family(server) for wait in sleeping_in(pid)}


def test_an_execve_that_waits_for_a_file_server_delays_nobody_else(
    paused: Callable[..., Mount],
    stop: Pause,
    spawn: Callable[..., Target],
    server: Server,
    build: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    mount = paused(stop, tuning=SOONER)
    daemon = mount.server
    target, other = spawn("identity", *AS_USER), spawn("mapper")
    start = int(other.ask(f"map /dev/zero {PAGE} 0")["start"], 16)
    other.ask(f"poke {start:x}")
    mount.expect(f"process {target.pid}: its memory could not be read in time (it could not be")
    program = shutil.copy(build("identity"), tmp_path)  # every user can reach it there
    assert target.ask(f"open {server.library}")["ours"] == 0
    server.hold()
    with let_at_last(server), opened(mount / target.pid) as fd:
        stop.wait()
        target.tell(f"exec {program}")
        eventually(lambda: server.closing() == 1)
        stop.end()
        eventually(lambda: bool(WAITS & waits_of(daemon)))
        for _ in range(LOOKS):
            assert str(other.pid).encode() in run("ls", "-f", mount.path).stdout.split()
            assert run("stat", "-c", "%F", mount / other.pid).stdout == b"regular file\n"
            header = run("head", "-c", 64 * PAGE, mount / other.pid).stdout
            page = offset_of(header, start) // PAGE
            dd = run("dd", f"if={mount / other.pid}", f"bs={PAGE}", f"skip={page}", "count=1")
            assert dd.stdout == start.to_bytes(8, "little") + bytes(PAGE - 8)
        assert errno_of(lambda: os.pread(fd, 4, 0)) == errno.EIO
    assert server.let() == 1
    assert target.line() == {"pid": target.pid}
    eventually(lambda: is_free(target.pid))


def test_a_tracer_that_waits_for_an_execve_is_the_only_one(
    paused: Callable[..., Mount], spawn: Callable[..., Target], server: Server
) -> None:
    """Else each open costs one more worker, for as long as the execve lasts."""
    mount = paused(tuning=SOONEST)
    target = spawn("identity", *AS_USER)
    server.silent()
    target.tell(f"exec {server.library}")
    eventually(lambda: task_stat.stat(target.pid).state == "D")
    with opened(mount / target.pid):
        eventually(lambda: "ptrace_attach" in waits_of(mount.server))
    mount.expect(f"process {target.pid}: {Reason.HELD.text}")
    assert errno_of(partial(os.open, mount / target.pid, os.O_RDONLY)) == errno.EBUSY
    workers = [pid for pid in tasks.children(zygote(mount)) if is_tracing(pid)]
    assert len(workers) == 1
    target.kill()
    eventually(lambda: not is_tracing(*workers))


def is_tracing(worker: int) -> bool:
    """True if it waits in ptrace(2)."""
    return "ptrace_attach" in sleeping_in(worker)
