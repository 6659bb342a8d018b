"""A directory of processes: names and attributes are shown without a stop, and nothing can be
changed."""

import ctypes
import errno
import os
import signal
import struct
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gcorefs.kernel.proc import task_stat, task_status, tasks
from tests.conftest import Mount, Target
from tests.mounted.conftest import (
    AS_NOBODY,
    NOBODY,
    PAGE,
    errno_of,
    eventually,
    is_free,
    memory_offset,
    opened,
    replaced,
    run,
    stops,
)

LISTINGS = (
    ["ls", "-la", "{mount}"],
    ["ls", "-lhS", "{mount}"],
    ["stat", "{file}"],
    ["find", "{mount}", "-type", "f", "-size", "+1k"],
    ["du", "-a", "{mount}"],
    ["test", "-r", "{file}"],
    ["bash", "-c", "compgen -f {mount}/ && compgen -G '{mount}/*' && echo {mount}/[0-9]*"],
)


def switches(pid: int) -> dict[int, tuple[bytes, bytes]]:
    """How often each thread has left the processor: a stop wakes it, and counts."""
    return {
        tid: (status["voluntary_ctxt_switches"], status["nonvoluntary_ctxt_switches"])
        for tid in tasks.tids(pid)
        for status in [task_status.status(pid, tid)]
    }


def users() -> set[int]:
    """Every process that is not a kernel thread."""
    found = set()
    for pid in tasks.pids():
        try:
            if not task_stat.stat(pid).is_kernel_thread:
                found.add(pid)
        except ProcessLookupError:
            continue
    return found


def test_listing_stops_nobody(mount: Mount, spawn: Callable[..., Target]) -> None:
    target, other = spawn("threads", 3), spawn("threads", 1)
    # Its main thread has said that all threads are there, and goes to sleep last.
    eventually(lambda: task_stat.stat(target.pid).state == "S")
    before = switches(target.pid)
    for words in LISTINGS:
        command = [word.format(mount=mount.path, file=mount / target.pid) for word in words]
        result = run(*command)
        # Others may end between the listing and the stat.
        complaints = result.stderr.splitlines()
        assert all(line.endswith(b"No such file or directory") for line in complaints), result
        assert not any(str(target.pid).encode() in line for line in complaints)
        assert result.returncode == 0 or complaints, command
        assert str(target.pid).encode() in result.stdout or not result.stdout
    assert switches(target.pid) == before
    # Lines of the log come in order: the line of the only stop shows that it is up to date.
    with opened(mount / other.pid) as fd:
        os.read(fd, 1)
    eventually(lambda: stops(mount, other.pid) == 1)
    assert mount.log.read_text().count("opened by") == 1


def test_an_open_file_does_show_in_the_switches(mount: Mount, spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 3)
    eventually(lambda: task_stat.stat(target.pid).state == "S")
    before = switches(target.pid)
    with opened(mount / target.pid) as fd:
        os.read(fd, 1)
    eventually(lambda: is_free(target.pid))
    assert all(switches(target.pid)[tid] != before[tid] for tid in before)


def test_names_are_the_pids_of_user_processes(mount: Mount) -> None:
    before = users()
    names = os.listdir(mount.path)
    after = users()
    listed = {int(name) for name in names}
    assert names == [str(pid) for pid in sorted(listed)]
    assert before & after <= listed
    # A process that came and went during the listing is in neither.
    kernel = {pid for pid in listed - before - after if os.path.exists(f"/proc/{pid}")}
    assert not kernel


@pytest.mark.parametrize("uid", [0, NOBODY])
def test_a_file_is_for_the_owner_of_the_process_to_read(mount: Mount, uid: int) -> None:
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "sleep", "1000"]
    with subprocess.Popen(command) as process:
        try:
            eventually(lambda: task_stat.stat(process.pid).comm == b"sleep")
            file, proc = (mount / process.pid).stat(), Path(f"/proc/{process.pid}").stat()
        finally:
            process.kill()
    assert oct(file.st_mode) == "0o100400"
    assert (file.st_uid, file.st_gid) == (proc.st_uid, proc.st_gid) == (uid, uid)
    assert file.st_nlink == 1


@pytest.mark.parametrize(
    "words", [("threads", 1), ("threads", 50), ("reserve", 10, 5000), ("churn", "leader")]
)
def test_the_size_before_opening_is_enough_and_not_far_too_much(
    mount: Mount, spawn: Callable[..., Target], words: tuple[Any, ...]
) -> None:
    # Also if the leader of the process is dead: /proc/PID/stat then has zeros.
    target = spawn(*words)
    living = tasks.tids(target.pid)[-1]
    status = task_status.status(target.pid, living)
    resident, anonymous = (int(status[key].split()[0]) << 10 for key in ("VmRSS", "RssAnon"))
    path = mount / target.pid
    before = path.stat().st_size
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
    assert size <= before
    assert anonymous < before < 2 * resident + (4 << 20)


def test_a_name_that_is_not_a_pid_does_not_exist(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    pid = spawn("threads", 1).pid
    names = [
        "", ".x", "0", f"0{pid}", f"+{pid}", f"-{pid}", f" {pid}", f"{pid} ", f"{pid}.0",
        f"{pid}\n", "abc", "self", "thread-self", "\u0661", "4194305", "9" * 9, "1" * 255,
        "9" * 1000, f"{2**32 + pid}", f"{2**64 + pid}",
    ]  # fmt: skip
    found = {name: errno_of(partial(os.stat, f"{mount.path}/{name}")) for name in names}
    assert found.pop("") == 0  # the directory itself
    assert set(found.values()) == {errno.ENOENT}, found


def test_a_process_that_has_ended_is_not_there(mount: Mount, spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 1)
    assert (mount / target.pid).exists()
    target.kill()
    assert errno_of((mount / target.pid).stat) == errno.ENOENT
    assert str(target.pid) not in os.listdir(mount.path)


def test_a_thread_that_leads_no_process_is_not_there(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    # /proc/TID exists for every thread, although it is not listed (proc(5)).
    target = spawn("threads", 1)
    tid = target.truth["threads"][0]["tid"]
    assert errno_of((mount / tid).stat) == errno.ENOENT
    assert errno_of(lambda: os.open(mount / tid, os.O_RDONLY)) == errno.ENOENT


def test_nothing_can_be_changed(mount: Mount, spawn: Callable[..., Target]) -> None:
    file = mount / spawn("threads", 1).pid
    new = mount.path / "new"
    calls: dict[str, Callable[[], object]] = {
        "write": lambda: os.open(file, os.O_WRONLY),
        "read and write": lambda: os.open(file, os.O_RDWR),
        "append": lambda: os.open(file, os.O_WRONLY | os.O_APPEND),
        "O_TRUNC": lambda: os.open(file, os.O_RDONLY | os.O_TRUNC),
        "O_TRUNC, write": lambda: os.open(file, os.O_WRONLY | os.O_TRUNC),
        "create": lambda: os.open(new, os.O_WRONLY | os.O_CREAT, 0o600),
        "create, exclusive": lambda: os.open(new, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o600),
        "mkdir": lambda: os.mkdir(new),
        "mkfifo": lambda: os.mkfifo(new),
        "unlink": lambda: os.unlink(file),
        "rmdir": lambda: os.rmdir(file),
        "rename": lambda: os.rename(file, new),
        "chmod": lambda: os.chmod(file, 0o644),
        "chmod of the mount": lambda: os.chmod(mount.path, 0o777),
        "chown": lambda: os.chown(file, 1, 1),
        "truncate": lambda: os.truncate(file, 0),
        "link": lambda: os.link(file, new),
        "symlink": lambda: os.symlink("/", new),
        "setxattr": lambda: os.setxattr(file, "user.gcorefs", b"1"),
        "removexattr": lambda: os.removexattr(file, "user.gcorefs"),
        "utime": lambda: os.utime(file),
    }
    found = {name: errno_of(call) for name, call in calls.items()}
    assert found.pop("rmdir") == errno.ENOTDIR  # from the kernel itself
    assert set(found.values()) <= {errno.EROFS, errno.EACCES, errno.EPERM}, found


def test_dots_are_the_mount_and_its_parent(mount: Mount) -> None:
    assert run("ls", "-aU", mount.path).stdout.split()[:2] == [b".", b".."]
    assert os.path.samefile(f"{mount.path}/.", mount.path)
    assert os.path.samefile(f"{mount.path}/..", mount.path.parent)
    assert os.stat(mount.path).st_ino == os.stat(f"{mount.path}/.").st_ino
    assert errno_of(lambda: os.open(f"{mount.path}/", os.O_WRONLY)) in (errno.EISDIR, errno.EROFS)


def test_an_inode_number_is_one_process_and_stays(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target, other = spawn("threads", 1), spawn("threads", 1)
    number = (mount / target.pid).stat().st_ino
    assert number != (mount / other.pid).stat().st_ino
    for _ in range(2):
        listing = dict(
            line.split()[::-1] for line in run("ls", "-i", mount.path).stdout.splitlines()
        )
        assert listing[str(target.pid).encode()] == str(number).encode()
        found = run("find", mount.path, "-inum", number).stdout
        assert found == b"%s\n" % os.fsencode(mount / target.pid)


def test_a_listing_gives_the_number_that_is_found_afterwards(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 1)
    for _ in range(2):
        listed = numbers(mount)[target.pid]
        assert (mount / target.pid).stat().st_ino == listed
        with opened(mount / target.pid) as fd:
            assert os.fstat(fd).st_ino == listed
            assert numbers(mount)[target.pid] == listed
        eventually(lambda: is_free(target.pid))


def numbers(mount: Mount) -> dict[int, int]:
    """The inodes in a listing, by pid."""
    with os.scandir(mount.path) as entries:
        return {int(entry.name): entry.inode() for entry in entries}


def test_a_later_process_of_a_listed_pid_is_found(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 1)
    before = (mount / target.pid).stat().st_ino
    listed = numbers(mount)[target.pid]
    assert listed == before
    with replaced(target) as later:
        now = (mount / later).stat().st_ino
        assert now != before
        assert numbers(mount)[later] == now


def test_a_listing_changes_nothing_of_an_open_file(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    # splice(2) uses the size that the kernel has heard last, and asks nobody.
    target = spawn("threads", 1)
    with opened(mount / target.pid) as fd:
        size = os.fstat(fd).st_size
        assert target.pid in numbers(mount)
        read_end, write_end = os.pipe()
        with open(read_end, "rb"), open(write_end, "wb") as pipe:
            assert os.splice(fd, pipe.fileno(), PAGE, offset_src=size - PAGE) == PAGE
            assert os.splice(fd, pipe.fileno(), PAGE, offset_src=size) == 0


@pytest.mark.parametrize("uid", [0, NOBODY])
def test_what_was_only_listed_is_opened_and_looked_at_as_it_is(everybodys: Mount, uid: int) -> None:
    drop = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    with subprocess.Popen([*drop, "sleep", "1000"]) as process:
        try:
            eventually(lambda: task_stat.stat(process.pid).comm == b"sleep")
            words = ("/usr/bin/python3", "-c", LIST_AND_LOOK, everybodys.path, process.pid)
            result = run(*drop, *words)
        finally:
            process.kill()
    assert result.stdout.decode() == f"ELF {uid} 100400\n", result


LIST_AND_LOOK = """
import os, sys
folder = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
assert sys.argv[2] in os.listdir(folder)
with open(os.open(sys.argv[2], os.O_RDONLY, dir_fd=folder), "rb") as file:
    magic = file.read(4)[1:].decode()
assert sys.argv[2] in os.listdir(folder)
found = os.stat(sys.argv[2], dir_fd=folder)
print(magic, found.st_uid, format(found.st_mode, "o"))
"""


def test_a_file_handle_of_what_was_only_listed_is_stale(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    pid = spawn("threads", 1).pid
    with opened(mount.path) as folder:
        assert open_by_handle(folder, numbers(mount)[pid]) == errno.ESTALE
        number = (mount / pid).stat().st_ino
        assert open_by_handle(folder, number) == 0


def test_a_file_handle_opens_what_a_name_would_open_and_nothing_else(
    everybodys: Mount, spawn: Callable[..., Target]
) -> None:
    """The kernel's NFS server uses them.  It opens for others, and is refused (access.py)."""
    target = spawn("threads", 1)
    path = everybodys / target.pid
    with opened(everybodys.path) as folder, opened(path) as fd:
        outsiders = int(run(*AS_NOBODY, "stat", "-c", "%i", path).stdout)
        numbers = {
            os.fstat(fd).st_ino: 0,
            outsiders: errno.ESTALE,  # it is for users who may not open
            os.stat(everybodys.path / ".gcorefs/status").st_ino: 0,
            os.stat(everybodys.path / ".gcorefs").st_ino: 0,
            1: 0,
            0: errno.ESTALE,
            7: errno.ESTALE,
            1 << 22: errno.ESTALE,
            (1 << 64) - 1: errno.ESTALE,
        }
        assert {each: open_by_handle(folder, each) for each in numbers} == numbers
        assert os.pread(fd, 4, 0) == b"\x7fELF"
    assert os.listdir(everybodys.path / ".gcorefs")


def open_by_handle(folder: int, number: int) -> int:
    """Open an inode without its name (fs/fuse/inode.c, fuse_encode_fh).  Returns the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = struct.pack("<IiIII", 12, FILEID_INO64_GEN, number >> 32, number & 0xFFFFFFFF, 0)
    fd = libc.open_by_handle_at(folder, handle, os.O_RDONLY)
    if fd < 0:
        return ctypes.get_errno()
    os.close(fd)
    return 0


FILEID_INO64_GEN = 0x81  # include/linux/exportfs.h, FILEID_INO64_GEN


def test_a_directory_read_again_shows_new_processes(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    with opened(mount.path) as folder:
        assert str(os.getpid()) in os.listdir(folder)  # rewinds it (os.listdir)
        target = spawn("threads", 1)
        assert str(target.pid) in os.listdir(folder)
        target.kill()
        assert str(target.pid) not in os.listdir(folder)


def test_a_later_process_of_the_same_pid_is_another_file(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    mount.expect("the process died, or called execve(2), while it was being dumped")
    target = spawn("threads", 1)
    with opened(mount / target.pid) as fd:
        before, header = os.fstat(fd), os.pread(fd, PAGE, 0)
        with replaced(target) as later:
            assert (mount / later).stat().st_ino != before.st_ino
            assert os.fstat(fd).st_ino == before.st_ino
            assert os.fstat(fd).st_size == before.st_size
            assert os.pread(fd, PAGE, 0) == header
            assert errno_of(lambda: os.pread(fd, 1, memory_offset(header))) == errno.EIO
            eventually(lambda: task_stat.stat(later).comm == b"sleep")
            with opened(mount / later) as new:
                assert b"sleep" in os.pread(new, PAGE, 0)
                assert os.fstat(new).st_ino != before.st_ino
            eventually(lambda: is_free(later))


def test_a_process_in_the_middle_of_execve_hangs_nobody(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    """execve(2) closes files while it holds the lock that /proc/PID/stat needs (exec_update_lock).

    If one of them is a file of ours, the close waits for the server (FUSE_FLUSH).  So a server that
    waits for /proc of that process waits for itself.
    """
    go, told = os.pipe()
    with opened(mount / spawn("threads", 1).pid) as fd:
        pid = os.fork()
        if pid == 0:
            try:
                os.read(go, 1)
                os.execvp("true", ["true"])
            finally:
                os._exit(127)
    # A request for the size alone, which the server gets before the request of the execve.
    server = mount.server
    with opened(mount / pid, os.O_PATH) as path:
        # If this test is killed: every reader of /proc of that process waits for the server.
        guard = subprocess.Popen(
            ["sh", "-c", f"read line; kill -KILL {server}"], stdin=subprocess.PIPE
        )
        os.kill(server, signal.SIGSTOP)
        look = subprocess.Popen(["stat", "-c", "%s", "-"], stdin=path, stdout=subprocess.DEVNULL)
    with look:
        try:
            wchan = Path(f"/proc/{look.pid}/wchan")
            eventually(lambda: wchan.read_text() == "request_wait_answer")
            os.write(told, b"x")
            eventually(lambda: str(fd) not in os.listdir(f"/proc/{pid}/fd"))
            os.kill(server, signal.SIGCONT)
            assert look.wait(timeout=10) == 0
        finally:
            if look.poll() is None:
                os.kill(server, signal.SIGKILL)
            guard.kill()
            guard.communicate()
            os.waitpid(pid, 0)
            for end in (go, told):
                os.close(end)
