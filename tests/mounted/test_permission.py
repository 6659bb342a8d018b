"""Who may open which file.  The mode comes first; then the kernel decides as for /proc/PID/mem,
under the credentials of the opener."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from gcorefs.kernel.proc import task_stat, task_status, tasks
from gcorefs.steps import Step
from tests import features
from tests.conftest import GCOREFS, Mount, Target, text_of
from tests.mounted.conftest import (
    AS_NOBODY,
    NOBODY,
    Pause,
    assert_refused,
    errno_of,
    eventually,
    is_free,
    opened,
    run,
)

REFUSED = b"Permission denied"
# All capabilities but CAP_SYS_PTRACE (linux/capability.h: 19): effective, permitted, inheritable.
WITHOUT_PTRACE = "caps=fffffffffff7ffff,fffffffffff7ffff,0"


@pytest.fixture
def sleeper() -> Iterator[Callable[..., int]]:
    """Start sleep(1) after other words, such as words that change its user."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> int:
        process = subprocess.Popen([*words, "sleep", "1000"])
        processes.append(process)
        eventually(lambda: task_stat.stat(process.pid).comm == b"sleep")
        return process.pid

    yield start
    for process in processes:
        eventually(partial(is_free, process.pid))
        process.kill()
        process.wait(timeout=20)


def first_bytes(path: Path, *words: str) -> "subprocess.CompletedProcess[bytes]":
    return run(*words, "head", "-c", "4", path)


def test_without_allow_other_nobody_else_comes_in(
    mount: Mount, sleeper: Callable[..., int]
) -> None:
    pid = sleeper(*AS_NOBODY)
    assert REFUSED in first_bytes(mount / pid, *AS_NOBODY).stderr
    assert first_bytes(mount / pid).stdout == b"\x7fELF"


def test_another_user_may_not_open_a_process_of_root(
    everybodys: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 1)
    result = first_bytes(everybodys / target.pid, *AS_NOBODY)
    assert result.stdout == b""
    assert REFUSED in result.stderr


def test_a_user_opens_a_process_of_their_own(
    everybodys: Mount, sleeper: Callable[..., int]
) -> None:
    assert first_bytes(everybodys / sleeper(*AS_NOBODY), *AS_NOBODY).stdout == b"\x7fELF"


def test_the_same_user_in_another_group_is_refused_by_the_kernel(
    everybodys: Mount, sleeper: Callable[..., int]
) -> None:
    pid = sleeper("setpriv", f"--reuid={NOBODY}", "--regid=12345", "--clear-groups")
    assert (everybodys / pid).stat().st_uid == NOBODY  # so the mode lets them in
    everybodys.expect(f"process {pid}: the kernel does not allow the opener to trace it")
    result = first_bytes(everybodys / pid, *AS_NOBODY)
    assert result.stdout == b""
    assert REFUSED in result.stderr
    assert is_free(pid)


def test_root_without_the_capability_is_refused_by_the_kernel(
    mount: Mount, sleeper: Callable[..., int]
) -> None:
    pid = sleeper(*AS_NOBODY)
    mount.expect(f"process {pid}: the kernel does not allow the opener to trace it (uid 0)")
    result = first_bytes(mount / pid, "setpriv", "--bounding-set=-sys_ptrace")
    assert result.stdout == b""
    assert REFUSED in result.stderr


@pytest.mark.parametrize("policy", ["", "@threads", "@stacks", "@hold=copy", "@gentle", "@glance"])
def test_a_thread_of_root_in_a_process_of_a_user_keeps_its_registers(
    everybodys: Mount, spawn: Callable[..., Target], policy: str
) -> None:
    target = spawn("split", NOBODY, "thread")
    file = everybodys.path / policy / str(target.pid)
    everybodys.expect(f"process {target.pid}: the kernel does not allow the opener to trace it")
    assert REFUSED in first_bytes(file, *AS_NOBODY).stderr
    assert is_free(target.pid)
    assert first_bytes(file).stdout == b"\x7fELF"


def test_an_opener_that_joins_a_stop_is_judged_too(
    mount: Mount, sleeper: Callable[..., int]
) -> None:
    pid = sleeper(*AS_NOBODY)
    mount.expect(f"process {pid}: the kernel does not allow the opener to trace it (uid 0)")
    with (mount / pid).open("rb") as file:
        assert file.read(4) == b"\x7fELF"
        assert REFUSED in first_bytes(mount / pid, "setpriv", "--bounding-set=-sys_ptrace").stderr


def test_root_of_another_user_namespace_is_refused(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 1)
    mount.expect(f"process {target.pid}: the opener cannot be identified from here")
    result = first_bytes(mount / target.pid, "unshare", "--user", "--map-root-user")
    assert result.stdout == b""
    assert REFUSED in result.stderr


def test_an_opener_in_another_pid_namespace_is_known(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    """By its number here: by its own number, pid 1, it would be another process."""
    target = spawn("threads", 1)
    mount.expect(f"process {target.pid}: the kernel does not allow the opener to trace it")
    assert first_bytes(mount / target.pid, "unshare", "--pid", "--fork").stdout == b"\x7fELF"
    opener = spawn("identity", WITHOUT_PTRACE, "pidns")
    assert b"NSpid:\t%d\t1\n" % opener.pid in Path(f"/proc/{opener.pid}/status").read_bytes()
    answer = opener.ask(f"try {target.pid} {mount / target.pid}")
    assert answer == {"kernel": errno.EACCES, "ours": errno.EACCES}
    assert is_free(target.pid)


def test_an_opener_outside_of_our_pid_namespace_is_not_known(unmounted: Mount) -> None:
    text = "the opener cannot be identified from here (it is in another pid namespace)"
    unmounted.expect(text)
    words = ["mount", "--foreground", "--log-file", unmounted.log, unmounted.path]
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with subprocess.Popen(text_of([*unshare, GCOREFS, *words])) as process:
        try:
            eventually(lambda: unmounted.log.exists() and "mounted" in unmounted.log.read_text())
            server = unmounted.server
            inside = ("nsenter", "--target", str(server), "--pid", "--mount")
            with subprocess.Popen([*inside, "sleep", "1000"]) as entered:
                eventually(lambda: bool(tasks.children(entered.pid)))
                (pid,) = tasks.children(entered.pid)
                number = task_status.status(pid)["NSpid"].split()[-1].decode()
                path = unmounted.path / number
                assert errno_of(lambda: os.open(f"/proc/{server}/root{path}", 0)) == errno.EACCES
                assert is_free(pid)
                assert first_bytes(path, *inside).stdout == b"\x7fELF"
                eventually(lambda: is_free(pid))
                os.kill(pid, signal.SIGKILL)
        finally:
            process.kill()
    assert unmounted.log.read_text().count(text) == 1


def test_a_landlock_domain_is_not_seen(mount: Mount, spawn: Callable[..., Target]) -> None:
    """The manual says so.  Nothing in /proc distinguishes such a process from another."""
    features.needs_call("landlock_create_ruleset")
    target, opener = spawn("threads", 1), spawn("identity", "landlock")
    answer = opener.ask(f"try {target.pid} {mount / target.pid}")
    assert answer == {"kernel": errno.EACCES, "ours": 0}


# Drops in one thread, by the system calls themselves, what libc drops in all threads.
ONE_THREAD = """
import ctypes, os, struct, sys, threading
libc = ctypes.CDLL(None)

def give_up_capabilities():
    assert libc.syscall(126, struct.pack("<Ii", 0x20080522, 0), bytes(24)) == 0

def give_up_ids():
    assert libc.syscall(117, 65534, 65534, 65534) == 0

def attempt():
    try:
        os.close(os.open(sys.argv[1], os.O_RDONLY))
        print(0, flush=True)
    except OSError as error:
        print(error.errno, flush=True)
"""


def test_a_thread_is_judged_by_its_own_capabilities(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 1)
    mount.expect(f"process {target.pid}: the kernel does not allow the opener to trace it")
    script = """
def run():
    give_up_capabilities()
    attempt()
thread = threading.Thread(target=run)
thread.start()
thread.join()
attempt()
"""
    result = run(sys.executable, "-c", ONE_THREAD + script, mount / target.pid)
    assert result.stdout.split() == [b"%d" % errno.EACCES, b"0"]


def test_an_opener_is_judged_as_it_was_when_it_opened(
    paused: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    """Its process goes on meanwhile, but the thread that waits for the answer does not."""
    pause = Pause(Step.IDENTIFY)
    target, mount = spawn("threads", 1), paused(pause)
    script = """
thread = threading.Thread(target=attempt)
thread.start()
sys.stdin.read(1)
give_up_ids()
print("given up", flush=True)
thread.join()
"""
    command = [sys.executable, "-c", ONE_THREAD + script, mount / target.pid]
    with subprocess.Popen(
        text_of(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as opener:
        assert opener.stdout is not None
        assert opener.stdin is not None
        pause.wait()
        opener.stdin.close()
        assert opener.stdout.readline() == b"given up\n"
        assert task_status.status(opener.pid)["Uid"].split() == [b"65534"] * 4
        pause.end()
        assert opener.stdout.readline() == b"0\n"


def test_an_opener_that_is_killed_while_it_is_judged_leaves_nobody_stopped(
    paused: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    pause = Pause(Step.CHECK)
    mount = paused(pause)
    target, opener = spawn("threads", 1), spawn("identity")
    opener.tell(f"open {mount / target.pid}")
    pause.wait()
    opener.popen.kill()
    # It waits for the answer in any case (fs/fuse/dev.c, request_wait_answer).
    eventually(lambda: task_stat.stat(opener.pid).state == "D")
    pause.end()
    assert opener.popen.wait(timeout=20) == -signal.SIGKILL
    with opened(mount / target.pid) as fd:
        assert os.read(fd, 4) == b"\x7fELF"
    eventually(lambda: is_free(target.pid))


def test_an_opener_that_works_through_io_uring_is_not_known(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    """A worker of the ring opens with the ids of the submitter, but shows the ids of its creation:
    here, a capability that the process has dropped since."""
    target = spawn("threads", 1)
    opener = spawn("identity", "ring", WITHOUT_PTRACE)
    mount.expect(f"process {target.pid}: the opener cannot be identified from here")
    for path in (f"/proc/{target.pid}/mem", mount / target.pid):
        assert opener.ask(f"ring {path}")["ours"] == errno.EACCES
    assert is_free(target.pid)


@pytest.mark.parametrize("command", ["mount", "dump"])
def test_proc_of_another_pid_namespace_would_name_somebody_else(
    unmounted: Mount, command: str
) -> None:
    """The same number is another opener, or another process, there."""
    words = [unmounted.path] if command == "mount" else ["1"]
    result = run("unshare", "--pid", "--fork", "--kill-child", GCOREFS, command, *words)
    assert_refused(result, "/proc", "pid namespace")


def test_who_may_not_read_maps_does_not_learn_what_is_mapped(
    everybodys: Mount, spawn: Callable[..., Target]
) -> None:
    """Not even by a policy that takes the mappings of one name, or all but those."""
    target = spawn("threads", 1)
    assert run(*AS_NOBODY, "cat", f"/proc/{target.pid}/maps").returncode == 1
    for option in ("include", "exclude"):
        sizes = set()
        for pattern in ("libc*", "no-such-file", "[heap]"):
            name = everybodys.path / f"@{option}={pattern}" / str(target.pid)
            result = run(*AS_NOBODY, "stat", "--format=%s", name)
            assert result.returncode == 0, result.stderr
            sizes.add(result.stdout)
        assert len(sizes) == 1
