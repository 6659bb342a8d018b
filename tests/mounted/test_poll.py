"""poll(2), select(2) and epoll(7): a file is readable when every thread is recorded, and has an
error if that will never happen.

`vforker` has a thread that cannot stop until its child ends, so its file is not ready for as long
as a test likes.
"""

import errno
import functools
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import Mount, Target
from tests.mounted.conftest import (
    errno_of,
    eventually,
    is_free,
    memory_offset,
    opened,
    run,
    whole,
)

CLIENT = Path(__file__).parents[2] / "examples" / "poll-client.py"
LONG = 20_000  # milliseconds; practically for ever
READABLE = select.POLLIN | select.POLLRDNORM


def poll(fd: int, events: int = READABLE, milliseconds: int = LONG) -> int:
    """The events of one file; 0 after a time without any."""
    poller = select.poll()
    poller.register(fd, events)
    found = poller.poll(milliseconds)
    return found[0][1] if found else 0


@pytest.fixture
def patient(mount_with: Callable[..., Mount]) -> Mount:
    """A mount that waits a minute for a thread to stop."""
    return mount_with("stop_timeout=60")


@pytest.fixture
def slow(spawn: Callable[..., Target]) -> Iterator[Target]:
    """A target that is not ready until its child is killed."""
    target = spawn("vforker")
    yield target
    finish(target)


def finish(target: Target) -> None:
    """Let the thread return from vfork(2), and so stop."""
    try:
        os.kill(target.truth["child_pid"], signal.SIGKILL)
    except ProcessLookupError:
        return


def test_poll_reports_when_every_thread_is_recorded(patient: Mount, slow: Target) -> None:
    with opened(patient / slow.pid, os.O_NONBLOCK) as fd:
        assert poll(fd, milliseconds=0) == 0
        assert errno_of(lambda: os.read(fd, 1)) == errno.EAGAIN
        assert poll(fd, milliseconds=0) == 0
        finish(slow)
        assert poll(fd) == READABLE
        assert os.read(fd, 4) == b"\x7fELF"
        assert poll(fd, milliseconds=0) == READABLE


def test_a_second_open_does_not_wait_either(patient: Mount, slow: Target) -> None:
    """With more opens than may wait at one time: the kernel asks for the mode in each."""
    with ExitStack() as stack:
        fds = [stack.enter_context(opened(patient / slow.pid, os.O_NONBLOCK)) for _ in range(30)]
        assert {poll(fd, milliseconds=0) for fd in fds} == {0}
        finish(slow)
        assert {poll(fd) for fd in fds} == {READABLE}


def test_select_and_epoll_tell_the_same(patient: Mount, slow: Target) -> None:
    with opened(patient / slow.pid, os.O_NONBLOCK) as fd, select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN)
        assert epoll.poll(0) == []
        assert select.select([fd], [], [fd], 0) == ([], [], [])
        finish(slow)
        assert epoll.poll(LONG / 1000) == [(fd, select.EPOLLIN)]
        assert select.select([fd], [], [fd], 0) == ([fd], [], [])


def is_polling(tid: int) -> bool:
    """True if a thread of ours waits in poll(2), select(2) or epoll_wait(2)."""
    wchan = Path(f"/proc/self/task/{tid}/wchan").read_text()
    return "poll" in wchan or "select" in wchan


def test_waiting_readers_are_woken(patient: Mount, slow: Target) -> None:
    found: dict[str, object] = {}
    with opened(patient / slow.pid, os.O_NONBLOCK) as fd, select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        waiters = {
            "poll": lambda: poll(fd),
            "select": lambda: select.select([fd], [], [], LONG / 1000)[0],
            "epoll": lambda: epoll.poll(LONG / 1000),
        }
        threads = [
            threading.Thread(target=lambda n=name, w=wait: found.update({n: w()}))
            for name, wait in waiters.items()
        ]
        for thread in threads:
            thread.start()
            assert thread.native_id is not None
            eventually(functools.partial(is_polling, thread.native_id))
        assert found == {}
        finish(slow)
        for thread in threads:
            thread.join(LONG / 1000)
        assert found == {"poll": READABLE, "select": [fd], "epoll": [(fd, select.EPOLLIN)]}


def test_a_blocking_read_waits_and_then_succeeds(patient: Mount, slow: Target) -> None:
    found: list[bytes] = []
    with opened(patient / slow.pid) as fd:
        thread = threading.Thread(target=lambda: found.append(os.read(fd, 4)))
        thread.start()
        wchan = Path(f"/proc/self/task/{thread.native_id}/wchan")
        eventually(lambda: wchan.read_text() == "request_wait_answer")
        assert found == []
        finish(slow)
        thread.join(LONG / 1000)
    assert found == [b"\x7fELF"]


def test_a_process_that_dies_before_it_is_ready_is_an_error(patient: Mount, slow: Target) -> None:
    patient.expect(f"process {slow.pid}: there is no such process, or no thread of it lives")
    with opened(patient / slow.pid, os.O_NONBLOCK) as fd:
        assert poll(fd, milliseconds=0) == 0
        slow.kill()
        assert poll(fd) == select.POLLERR
        assert errno_of(lambda: os.read(fd, 1)) == errno.ESRCH


def test_a_thread_that_another_tracer_holds_is_an_error(
    mount: Mount, spawn: Callable[..., Target], strace: Callable[[int], int]
) -> None:
    target = spawn("threads", 1)
    tracer = strace(target.truth["threads"][0]["tid"])
    mount.expect(f"process {target.pid}: another tracer holds it")
    mount.expect(f"TracerPid {tracer}")
    # Only the leader is looked at before the stop, so the stop itself fails.
    with opened(mount / target.pid, os.O_NONBLOCK) as fd:
        assert poll(fd) == select.POLLERR
        assert select.select([fd], [], [], 0) == ([fd], [], [])
        assert errno_of(lambda: os.read(fd, 1)) == errno.EBUSY


def test_a_process_that_dies_while_held_is_an_error_with_a_header(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 2)
    with opened(mount / target.pid) as fd:
        assert poll(fd) == READABLE
        target.kill()
        assert poll(fd, events=0) == select.POLLERR
        assert poll(fd, milliseconds=0) == READABLE | select.POLLERR
        assert os.read(fd, 4) == b"\x7fELF"


def test_a_process_let_go_for_idleness_is_an_error_with_a_header(
    mount_with: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    mount = mount_with("idle_timeout=0.3")
    target = spawn("threads", 2)
    mount.expect(f"process {target.pid}: let go, its file was not read for 0.3 s")
    mount.expect(f"process {target.pid}: the process was let go")
    with opened(mount / target.pid) as fd:
        assert poll(fd) & READABLE == READABLE
        assert poll(fd, events=0) == select.POLLERR
        assert poll(fd, milliseconds=0) == READABLE | select.POLLERR
        header = os.read(fd, 1 << 12)
        assert errno_of(lambda: os.pread(fd, 1, memory_offset(header))) == errno.EIO
        eventually(lambda: is_free(target.pid))


def test_a_stop_nobody_could_have_is_not_in_the_next_one(
    mount: Mount, spawn: Callable[..., Target], strace: Callable[[int], int]
) -> None:
    target = spawn("threads", 1)
    tracer = strace(target.truth["threads"][0]["tid"])
    mount.expect(f"TracerPid {tracer}")
    with opened(mount / target.pid) as fd:
        assert poll(fd) == select.POLLERR
    os.kill(tracer, signal.SIGTERM)
    eventually(lambda: is_free(target.pid))
    with opened(mount / target.pid) as fd:
        assert poll(fd) == READABLE
        assert os.read(fd, 4) == b"\x7fELF"


def client(mount: Mount, *words: object) -> "subprocess.CompletedProcess[bytes]":
    return run(sys.executable, CLIENT, "--mount", mount.path, *words)


def test_the_example_copies_a_core(
    mount: Mount, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    target = spawn("threads", 2)
    copy = tmp_path / "core"
    with opened(mount / target.pid) as fd:
        data = whole(fd)
        assert client(mount, target.pid).stdout == data
        result = client(mount, target.pid, "-o", copy)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert copy.read_bytes() == data
    assert oct(copy.stat().st_mode) == "0o100600"


def test_the_example_waits_no_longer_than_told(patient: Mount, slow: Target) -> None:
    result = client(patient, slow.pid, "--timeout", 0.1)
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr == b"%s: not ready after 0.1 s\n" % bytes(patient / slow.pid)


def test_the_example_says_what_is_wrong(
    mount: Mount, spawn: Callable[..., Target], strace: Callable[[int], int]
) -> None:
    target = spawn("threads", 1)
    mount.expect(f"TracerPid {strace(target.truth['threads'][0]['tid'])}")
    result = client(mount, target.pid)
    assert result.returncode == 1
    assert result.stderr == b"%s: Device or resource busy\n" % bytes(mount / target.pid)
    result = client(mount, 4194305)
    assert result.returncode == 1
    assert result.stderr == b"%s: No such file or directory\n" % bytes(mount / 4194305)


def test_the_example_leaves_no_part_of_a_core(
    mount: Mount, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    target = spawn("bulk", 4)
    copy = tmp_path / "core"
    words = [sys.executable, CLIENT, "--mount", mount.path, target.pid, "-o", copy]
    result = run("prlimit", "--fsize=1000000", *words)
    assert (result.returncode, result.stderr.decode()) == (1, f"{copy}: File too large\n")
    assert os.listdir(tmp_path) == []
    copy.write_text("old")
    result = client(mount, target.pid, "-o", copy)
    assert (result.returncode, result.stderr.decode()) == (1, f"{copy}: File exists\n")
    assert copy.read_text() == "old"
