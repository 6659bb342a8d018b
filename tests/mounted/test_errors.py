"""If there is no core, the errno says why, the log has a line with the process and the reason, and
the mount goes on."""

import errno
import os
import select
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel.proc import task_stat, task_status, tasks
from tests.conftest import Mount, Target, text_of
from tests.mounted.conftest import (
    errno_of,
    eventually,
    is_free,
    is_held,
    memory_offset,
    opened,
    run,
    whole,
)
from tests.tuned import program

OPEN_MYSELF = """
import os, sys, threading
def attempt():
    try:
        os.open(f"{sys.argv[1]}/{os.getpid()}", os.O_RDONLY)
    except OSError as error:
        print(error.errno, flush=True)
if sys.argv[2] == "leader":
    attempt()
else:
    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
"""


def open_errno(path: Path) -> int:
    return errno_of(lambda: os.open(path, os.O_RDONLY))


def test_the_server_itself_is_a_deadlock(mount: Mount) -> None:
    mount.expect(f"process {mount.server}: this is gcorefs itself")
    assert (mount / mount.server).exists()
    assert open_errno(mount / mount.server) == errno.EDEADLK


@pytest.mark.parametrize("thread", ["leader", "other"])
def test_the_process_of_the_opener_is_a_deadlock(mount: Mount, thread: str) -> None:
    mount.expect("the opener is a thread of this process")
    command = [sys.executable, "-c", OPEN_MYSELF, mount.path, thread]
    with subprocess.Popen(text_of(command), stdout=subprocess.PIPE) as process:
        output, _ = process.communicate(timeout=30)
    assert output == b"%d\n" % errno.EDEADLK
    eventually(lambda: f"process {process.pid}: the opener" in mount.log.read_text())


def test_a_shell_can_be_dumped_by_its_child(mount: Mount) -> None:
    script = 'size=$(cat "$1/$$" | wc -c); [ "$size" -gt 4096 ] && echo alive'
    assert run("sh", "-c", script, "-", mount.path).stdout == b"alive\n"


def test_a_kernel_thread_has_no_core(mount: Mount) -> None:
    pid = next(pid for pid in tasks.pids() if task_stat.stat(pid).is_kernel_thread)
    mount.expect(f"process {pid}: a kernel thread has no memory of its own")
    assert open_errno(mount / pid) == errno.EINVAL


def test_a_zombie_has_no_core(mount: Mount, spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 1)
    mount.expect(f"process {target.pid}: there is no such process, or no thread of it lives")
    target.popen.kill()
    os.waitid(os.P_PID, target.pid, os.WEXITED | os.WNOWAIT)
    assert open_errno(mount / target.pid) == errno.ESRCH


def test_a_process_that_another_tracer_holds_is_busy(
    mount: Mount, spawn: Callable[..., Target], strace: Callable[[int], int]
) -> None:
    target = spawn("threads", 1)
    tracer = strace(target.pid)
    mount.expect(f"process {target.pid}: another tracer holds it")
    mount.expect(f"TracerPid {tracer}")
    assert open_errno(mount / target.pid) == errno.EBUSY
    assert task_status.tracer(target.pid, target.pid) == tracer


def test_a_process_that_we_hold_is_not_somebody_elses(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 1)
    with opened(mount / target.pid), opened(mount / target.pid) as fd:
        assert os.read(fd, 4) == b"\x7fELF"


def test_of_a_process_killed_while_held_only_the_header_is_left(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 3)
    mount.expect(
        f"process {target.pid}: the process died, or called execve(2), while it was being dumped"
    )
    with opened(mount / target.pid) as fd:
        data = whole(fd)
        start = memory_offset(data)
        target.kill()
        for offset in (start, start + 1, len(data) - 1):
            assert errno_of(partial(os.pread, fd, 1, offset)) == errno.EIO
        assert os.pread(fd, start, 0) == data[:start]
        assert os.fstat(fd).st_size == len(data)
        assert os.pread(fd, 1, len(data)) == b""


def test_a_process_that_died_while_held_is_gone_for_the_next_opener(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 3)
    mount.expect(f"process {target.pid}: there is no such process, or no thread of it lives")
    with opened(mount / target.pid) as fd:
        os.read(fd, 1)
        target.popen.kill()
        os.waitid(os.P_PID, target.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        assert open_errno(mount / target.pid) == errno.ESRCH
        assert os.pread(fd, 4, 0) == b"\x7fELF"


def test_a_failed_file_costs_the_server_nothing_however_often_it_is_read(
    mount: Mount, spawn: Callable[..., Target], strace: Callable[[int], int]
) -> None:
    target = spawn("threads", 1)
    mount.expect(f"TracerPid {strace(target.truth['threads'][0]['tid'])}")
    mount.allow(" more times")
    server = mount.server
    with opened(mount / target.pid) as fd:
        reads = 0
        for _ in range(2):  # the first round makes what is needed only once
            before = task_stat.stat(server).resident
            for _ in range(10_000):
                reads += errno_of(lambda: os.read(fd, 1)) == errno.EBUSY
        assert reads == 20_000
        assert (task_stat.stat(server).resident - before) * PAGE_SIZE < 1 << 20


def test_a_parent_hears_of_a_death_while_the_file_is_open(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 3)
    with opened(mount / target.pid) as fd:
        os.read(fd, 1)
        assert is_held(target.pid)
        target.popen.kill()
        # The parent of a tracee can wait for it only after its tracer has (ptrace(2)).
        assert target.popen.wait(timeout=20) == -9


# What the server runs first.
SURPRISE = """
import {module} as module

true_{name} = module.{name}

def {name}(*arguments):
    if any(getattr(a, "pid", a) == {pid} for a in arguments):
        raise RuntimeError("a surprise")
    return true_{name}(*arguments)

module.{name} = {name}
"""


@pytest.fixture
def surprise(
    mount_with: Callable[..., Mount], unmounted: Mount, tmp_path: Path
) -> Callable[[str, str, int], Mount]:
    """A mount whose server fails in a function of a module, for one process."""

    def make(module: str, name: str, pid: int) -> Mount:
        code = SURPRISE.format(module=module, name=name, pid=pid)
        unmounted.program = program(tmp_path, first=code)
        return mount_with()

    return make


def test_a_surprise_in_a_handler_is_an_error_of_that_file_alone(
    spawn: Callable[..., Target], surprise: Callable[[str, str, int], Mount]
) -> None:
    target, other = spawn("threads", 1), spawn("threads", 1)
    mount = surprise("gcorefs.kernel.proc.task_stat", "stat", target.pid)
    for text in ("ERROR", "Traceback"):
        mount.expect(text)
    for _ in range(2):
        assert open_errno(mount / target.pid) == errno.EIO
    with opened(mount / other.pid) as fd:
        assert os.read(fd, 4) == b"\x7fELF"
    assert "RuntimeError: a surprise" in mount.log.read_text()
    assert is_free(target.pid)


def test_a_surprise_in_a_stop_is_an_error_of_that_file_alone(
    spawn: Callable[..., Target], surprise: Callable[[str, str, int], Mount]
) -> None:
    target, other = spawn("threads", 1), spawn("threads", 1)
    mount = surprise("gcorefs.assemble", "gather", target.pid)
    for text in (f"process {target.pid}: cannot be dumped", "Traceback", "itself failed"):
        mount.expect(text)
    with opened(mount / target.pid) as fd:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        assert poller.poll(20_000) == [(fd, select.POLLERR)]
        assert errno_of(lambda: os.read(fd, 1)) == errno.EIO
        eventually(lambda: is_free(target.pid))
    with opened(mount / other.pid) as fd:
        assert os.read(fd, 4) == b"\x7fELF"
    assert mount.log.read_text().count("RuntimeError: a surprise") == 1
