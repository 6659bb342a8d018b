"""Who may open which file.  The mode is the first door; behind it the kernel decides as it
does for /proc/PID/mem, under the credentials of whoever opens."""

import errno
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.process import procfs
from tests.conftest import Mount, Target
from tests.mounted.conftest import AS_NOBODY, NOBODY, eventually, is_free, run

REFUSED = b"Permission denied"
# All capabilities but CAP_SYS_PTRACE (linux/capability.h: 19): effective, permitted, inheritable.
WITHOUT_PTRACE = "caps=fffffffffff7ffff,fffffffffff7ffff,0"


@pytest.fixture
def sleeper() -> Iterator[Callable[..., int]]:
    """Start sleep(1) behind other words, such as those that change who runs it."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> int:
        process = subprocess.Popen([*words, "sleep", "1000"])
        processes.append(process)
        eventually(lambda: procfs.stat(process.pid).comm == b"sleep")
        return process.pid

    yield start
    for process in processes:
        eventually(lambda pid=process.pid: is_free(pid))
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


def test_whoever_joins_a_stop_is_judged_as_well(mount: Mount, sleeper: Callable[..., int]) -> None:
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
    target = spawn("threads", 1)
    assert first_bytes(mount / target.pid, "unshare", "--pid", "--fork").stdout == b"\x7fELF"


def test_an_opener_that_works_through_io_uring_is_not_known(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    """A worker of the ring opens with the ids of whoever submits, but shows those that it was
    born with: here, a capability that the process has given up since."""
    target = spawn("threads", 1)
    opener = spawn("identity", "ring", WITHOUT_PTRACE)
    mount.expect(f"process {target.pid}: the opener cannot be identified from here")
    for path in (f"/proc/{target.pid}/mem", mount / target.pid):
        assert opener.ask(f"ring {path}")["ours"] == errno.EACCES
    assert is_free(target.pid)
