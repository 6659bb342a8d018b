"""Programs that ask for the size of a file, write it down and only then open the file:
.gcorefs/exact, where a look-up stops the process, and a file that is held open meanwhile."""

import contextlib
import errno
import io
import os
import signal
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.kernel.proc import task_stat
from gcorefs.steps import Step
from tests.conftest import Mount, Target, mounts, wait_until_gone
from tests.mounted.conftest import (
    AS_NOBODY,
    NOBODY,
    Pause,
    errno_of,
    eventually,
    gcorefs,
    is_free,
    is_held,
    opened,
    run,
    running,
    stops,
    user,
    whole,
)
from tests.mounted.test_reading import end_of_last_segment
from tests.mounted.test_status import release_errno, status

Spawn = Callable[..., Target]

# For a process that is let go by hand: a command comes too late for five seconds on a slow machine.
PATIENT = "open_timeout=600"


def exact(mount: Mount, pid: int) -> Path:
    return mount.path / ".gcorefs" / "exact" / str(pid)


@pytest.fixture
def at_work(spawn: Spawn) -> Iterator[int]:
    """A process whose core has another size at each stop."""
    pid = spawn("varying").pid
    yield pid
    eventually(lambda: is_free(pid))


# Writes the content of file $1, which has the name $2 in its folder $3, to standard output.


def from_tar(data: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (member,) = archive.getmembers()
        stored = archive.extractfile(member)
        assert stored is not None
        return stored.read()


def from_cpio(data: bytes) -> bytes:
    return run("cpio", "-i", "--quiet", "--to-stdout", input=data).stdout


def from_zip(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(archive.infolist()[0])


def as_it_is(data: bytes) -> bytes:
    return data


TARFILE = """
import sys, tarfile
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
    archive.add(sys.argv[1])
"""

PROGRAMS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "tar": ('tar -c -C "$3" "$2"', from_tar),
    "busybox tar": ('busybox tar -c -f - -C "$3" "$2"', from_tar),
    "bsdtar": ('bsdtar -c -f - -C "$3" "$2"', from_tar),
    "tarfile": (f"""/usr/bin/python3 -c '{TARFILE}' "$1" """, from_tar),
    "cpio": ('cd "$3" && echo "$2" | cpio -o --quiet -H newc', from_cpio),
    "busybox cpio": ('cd "$3" && echo "$2" | busybox cpio -o -H newc 2>/dev/null', from_cpio),
    "zip": ('cd "$3" && zip -q -0 - "$2"', from_zip),
    "rsync": ('rsync -a "$1" "$4/copy" && cat "$4/copy"', as_it_is),
    "rclone": ('rclone -q copyto --ignore-checksum "$1" "$4/copy" && cat "$4/copy"', as_it_is),
    "cp": ('cp "$1" "$4/copy" && cat "$4/copy"', as_it_is),
    "dd": ('dd status=none bs=1M if="$1"', as_it_is),
    "cat": ('cat "$1"', as_it_is),
}
BY_HANDLE = PROGRAMS | {
    "rclone": ('rclone -q copyto "$1" "$4/copy" && cat "$4/copy"', as_it_is),
}


def stored(command: str, path: Path, tmp_path: Path) -> bytes:
    words = ("bash", "-c", f"set -o pipefail; {command}", "-", path, path.name, path.parent)
    result = run(*words, tmp_path, env=os.environ | {"RCLONE_CONFIG": "/dev/null"})
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_asks_for_the_size_first_has_it(
    mount: Mount, at_work: int, tmp_path: Path, program: str
) -> None:
    command, unpack = PROGRAMS[program]
    core = unpack(stored(command, exact(mount, at_work), tmp_path))
    assert core[:4] == b"\x7fELF"
    assert len(core) == end_of_last_segment(core)
    # All of it is from one stop, which the look-up began.
    eventually(lambda: stops(mount, at_work) == 1)
    assert status(mount) == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_it_stores_is_what_others_read(
    mount: Mount, at_work: int, tmp_path: Path, program: str
) -> None:
    command, unpack = PROGRAMS[program]
    path = exact(mount, at_work)
    with opened(path) as fd:
        assert unpack(stored(command, path, tmp_path)) == whole(fd)


@pytest.mark.parametrize("program", BY_HANDLE)
def test_by_its_plain_name_it_has_the_size_of_a_file_that_is_held_open(
    mount: Mount, at_work: int, tmp_path: Path, program: str
) -> None:
    command, unpack = BY_HANDLE[program]
    held = f'exec 3< "$1"; cat <&3 > "$4/truth"; {command}'
    core = unpack(stored(held, mount / at_work, tmp_path))
    assert core == (tmp_path / "truth").read_bytes()
    eventually(lambda: stops(mount, at_work) == 1)


def test_a_look_up_stops_the_process_until_it_is_opened(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 3)
    path = exact(mount, target.pid)
    found = path.stat()
    assert is_held(target.pid)
    plain = (mount / target.pid).stat()
    assert (plain.st_ino, plain.st_size, plain.st_mtime_ns) == (
        (found.st_ino, found.st_size, found.st_mtime_ns)
    )
    assert (oct(found.st_mode), found.st_uid, found.st_nlink) == ("0o100400", 0, 1)
    with opened(path) as fd, opened(mount / target.pid):
        assert os.fstat(fd).st_size == found.st_size == len(whole(fd))
        assert is_held(target.pid)
    eventually(lambda: is_free(target.pid))
    eventually(lambda: stops(mount, target.pid) == 1)


def test_the_last_close_lets_go_though_others_have_looked(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 1)
    with opened(exact(mount, target.pid)) as fd:
        os.read(fd, 1)
        exact(mount, target.pid).stat()
    eventually(lambda: is_free(target.pid), seconds=4)


def test_what_is_closed_unread_is_held_for_the_next_to_open(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 1)
    path = exact(mount, target.pid)
    for _ in range(3):
        with opened(path) as fd:
            size = os.fstat(fd).st_size
    with opened(path) as fd:
        assert is_held(target.pid)
        assert len(whole(fd)) == size
    eventually(lambda: stops(mount, target.pid) == 1)


def test_status_shows_that_it_waits(mount_with: Callable[..., Mount], spawn: Spawn) -> None:
    mount = mount_with(PATIENT)
    target = spawn("threads", 1)
    path = exact(mount, target.pid)
    size = path.stat().st_size
    (stop,) = status(mount)
    expected = {
        "pid": target.pid,
        "state": "stopped",
        "why": "waits to be opened",
        "files": 0,
        "openers": [{"pid": os.getpid(), "uid": 0}],
        "size": size,
        "bytes_read": 0,
    }
    assert {name: stop[name] for name in expected} == expected
    line = gcorefs("status", "--mount", mount.path).stdout.decode().splitlines()[1]
    assert line.rstrip().endswith(f"{os.getpid()} (uid 0)  stopped: waits to be opened")
    with opened(path) as fd:
        (stop,) = status(mount)
        assert (stop["state"], stop["why"], stop["files"]) == ("stopped", "", 1)
        os.read(fd, 1)


def test_it_is_let_go_if_nobody_opens_it(mount_with: Callable[..., Mount], spawn: Spawn) -> None:
    mount = mount_with("open_timeout=0.3")
    target = spawn("threads", 1)
    mount.expect(f"process {target.pid}: let go, its file was not opened for 0.3 s")
    path = exact(mount, target.pid)
    path.stat()
    eventually(lambda: is_free(target.pid))
    eventually(lambda: f"process {target.pid}: looked up by" in mount.log.read_text())
    eventually(lambda: status(mount) == [])
    # And the next open is a new stop.
    with opened(path) as fd:
        assert os.fstat(fd).st_size == len(whole(fd))
    eventually(lambda: stops(mount, target.pid) == 1)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("open_timeout=60,idle_timeout=0.3", "its file was not read for 0.3 s"),
        ("open_timeout=60,max_stop=0.3", "it was stopped for 0.3 s"),
    ],
)
def test_nor_does_it_wait_for_longer_than_any_file_may(
    mount_with: Callable[..., Mount], spawn: Spawn, options: str, why: str
) -> None:
    mount = mount_with(options)
    target = spawn("threads", 1)
    mount.expect(why)
    with contextlib.suppress(OSError):  # on a slow machine the core is not ready by then
        exact(mount, target.pid).stat()
    eventually(lambda: is_free(target.pid))


def test_another_look_up_restarts_the_time(mount_with: Callable[..., Mount], spawn: Spawn) -> None:
    mount = mount_with("open_timeout=2")
    target = spawn("threads", 1)
    mount.allow("its file was not opened for 2 s")  # on a slow machine
    path = exact(mount, target.pid)
    began = path.stat().st_mtime_ns
    (first,) = status(mount)
    while status(mount)[0]["stopped_ms"] < 3000:
        assert path.stat().st_mtime_ns == began
    assert first["pid"] == target.pid
    assert is_held(target.pid)
    (mount.path / ".gcorefs/release").write_text(str(target.pid))  # a command may come too late


def test_it_can_be_switched_off(mount_with: Callable[..., Mount], spawn: Spawn) -> None:
    mount = mount_with("open_timeout=0")
    target = spawn("threads", 1)
    assert errno_of(exact(mount, target.pid).stat) == errno.ENOENT
    assert is_free(target.pid)
    assert status(mount) == []


def test_nothing_is_listed_and_nobody_stopped_by_listing(
    mount_with: Callable[..., Mount], spawn: Spawn
) -> None:
    mount = mount_with(PATIENT)
    target = spawn("threads", 1)
    folder = mount.path / ".gcorefs"
    assert sorted(os.listdir(folder)) == ["exact", "release", "status"]
    exact(mount, target.pid).stat()
    assert os.listdir(folder / "exact") == []  # not even a held process
    assert gcorefs("release", str(target.pid), "--mount", mount.path).returncode == 0
    eventually(lambda: is_free(target.pid))
    commands = (
        ["ls", "-laR", folder],
        ["find", folder],
        ["du", "-a", folder],
        ["bash", "-c", f"echo {folder}/exact/* {folder}/exact/[0-9]*; compgen -f {folder}/exact/"],
        ["bash", "-c", f"compgen -G '{folder}/*/{str(target.pid)[:-1]}*'"],
        ["tar", "-c", "-f", "/dev/null", "-C", folder, "exact"],
    )
    for command in commands:
        run(*command)
    assert status(mount) == []
    assert (folder / "exact").stat().st_nlink == 2
    assert folder.stat().st_nlink == 3


@pytest.mark.parametrize("name", ["", "0", "x", "-1", "01", "1 ", "self", "9" * 9, "."])
def test_a_name_that_is_not_a_process_does_not_exist(mount: Mount, name: str) -> None:
    path = f"{mount.path}/.gcorefs/exact/{name}"
    assert errno_of(lambda: os.stat(path)) == (0 if name in ("", ".") else errno.ENOENT)
    assert status(mount) == []


def test_a_thread_and_one_that_has_ended_are_not_there(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 1)
    tid = target.truth["threads"][0]["tid"]
    assert errno_of(exact(mount, tid).stat) == errno.ENOENT
    target.kill()
    assert errno_of(exact(mount, target.pid).stat) == errno.ENOENT


def test_a_look_up_fails_as_the_open_would(
    mount: Mount, spawn: Spawn, strace: Callable[[int], int]
) -> None:
    target = spawn("threads", 1)
    strace(target.pid)
    mount.expect("another tracer holds it")
    mount.expect("the opener is a thread of this process")
    mount.expect("this is gcorefs itself")
    assert errno_of(exact(mount, target.pid).stat) == errno.EBUSY
    assert errno_of(exact(mount, os.getpid()).stat) == errno.EDEADLK
    assert errno_of(exact(mount, mount.server).stat) == errno.EDEADLK
    kthreadd = 2
    if task_stat.stat(kthreadd).is_kernel_thread:
        mount.expect("a kernel thread has no memory of its own")
        assert errno_of(exact(mount, kthreadd).stat) == errno.EINVAL
    assert status(mount) == []


def stat_errno(path: Path, *prefix: str) -> int:
    """The errno of a stat(2) as another user."""
    script = "import os, sys\ntry: os.stat(sys.argv[1])\nexcept OSError as e: print(e.errno)"
    said = run(*prefix, "/usr/bin/python3", "-c", script, path)
    assert said.stderr == b""
    return int(said.stdout or b"0")


def test_only_a_user_who_may_open_it_may_look_it_up(
    mount_with: Callable[..., Mount], spawn: Spawn
) -> None:
    mount, target = mount_with("allow_other", PATIENT), spawn("threads", 1)
    mount.expect("the kernel does not allow the opener to trace it")
    assert stat_errno(exact(mount, target.pid), *AS_NOBODY) == errno.EACCES
    assert is_free(target.pid)
    assert status(mount) == []
    # By its plain name everybody sees it, and no process is stopped.
    assert stat_errno(mount / target.pid, *AS_NOBODY) == 0
    assert is_free(target.pid)
    with running(*AS_NOBODY, "sh", "-c", "echo ready; read line; :") as pid:
        assert stat_errno(exact(mount, pid), *AS_NOBODY) == 0
        (stop,) = status(mount)
        assert (stop["pid"], stop["openers"][0]["uid"]) == (pid, NOBODY)
        assert gcorefs("release", str(pid), "--mount", mount.path).returncode == 0


def test_permission_to_trace_is_not_enough_if_the_mode_refuses(
    mount_with: Callable[..., Mount], spawn: Spawn
) -> None:
    """As with open(2): the file is 0400 and belongs to another user."""
    mount, target = mount_with("allow_other", PATIENT), spawn("threads", 1)
    tracer = (*AS_NOBODY, "--inh-caps=+sys_ptrace", "--ambient-caps=+sys_ptrace")
    mount.expect("the kernel does not allow the opener to trace it")
    script = "import os, sys\ntry: os.open(sys.argv[1], 0)\nexcept OSError as e: print(e.errno)"
    said = run(*tracer, "/usr/bin/python3", "-c", script, mount / target.pid).stdout
    assert int(said) == errno.EACCES
    assert stat_errno(exact(mount, target.pid), *tracer) == errno.EACCES
    assert is_free(target.pid)
    reader = [f"--{kind}-caps=+sys_ptrace,+dac_read_search" for kind in ("inh", "ambient")]
    assert stat_errno(exact(mount, target.pid), *AS_NOBODY, *reader) == 0
    assert gcorefs("release", str(target.pid), "--mount", mount.path).returncode == 0


def test_a_waiting_user_counts_as_a_holder(mount_with: Callable[..., Mount], spawn: Spawn) -> None:
    mount = mount_with("user_stops=1", PATIENT)
    target, other = spawn("threads", 1), spawn("threads", 1)
    mount.expect("its opener holds too many processes")
    exact(mount, target.pid).stat()
    assert errno_of(exact(mount, other.pid).stat) == errno.EMFILE
    assert is_free(other.pid)
    assert gcorefs("release", str(target.pid), "--mount", mount.path).returncode == 0
    eventually(lambda: status(mount) == [])
    with opened(exact(mount, other.pid)) as fd:
        os.read(fd, 1)


def test_the_user_who_looked_it_up_may_release_it(mount_with: Callable[..., Mount]) -> None:
    mount = mount_with("allow_other", PATIENT)
    with running(*AS_NOBODY, "sh", "-c", "echo ready; read line; :") as pid:
        assert stat_errno(exact(mount, pid), *AS_NOBODY) == 0
        mount.expect("another user holds it")
        assert release_errno(mount, b"%d" % pid, *user(4321)) == errno.EPERM
        assert is_held(pid)
        assert [stop["pid"] for stop in status(mount, *AS_NOBODY)] == [pid]
        assert status(mount, *user(4321)) == []
        assert release_errno(mount, b"%d" % pid, *AS_NOBODY) == 0
        eventually(lambda: is_free(pid))


def test_a_mount_ends_while_one_waits(mount_with: Callable[..., Mount], spawn: Spawn) -> None:
    mount = mount_with(PATIENT)
    server, target = mount.server, spawn("threads", 1)
    exact(mount, target.pid).stat()
    assert is_held(target.pid)
    assert gcorefs("umount", mount.path).returncode == 0  # nothing is open
    wait_until_gone(server)
    assert is_free(target.pid)
    assert str(mount.path) not in [place for place, _ in mounts()]


def test_a_copy_waits_to_be_opened_and_its_process_does_not(
    mount_with: Callable[..., Mount], spawn: Spawn
) -> None:
    mount = mount_with("hold=copy")
    target = spawn("threads", 3)
    size = exact(mount, target.pid).stat().st_size
    eventually(lambda: is_free(target.pid))
    (stop,) = status(mount)
    assert (stop["state"], stop["why"], stop["size"]) == ("copied", "waits to be opened", size)
    with opened(exact(mount, target.pid)) as fd:
        assert len(whole(fd)) == size
    eventually(lambda: stops(mount, target.pid) == 1)


def test_a_copy_of_what_runs_no_more_is_not_joined_by_a_look_up(
    mount_with: Callable[..., Mount],
) -> None:
    mount = mount_with("hold=copy")
    with running("sh", "-c", "echo ready; read line; exec sleep 1000") as pid:
        exact(mount, pid).stat()
        eventually(lambda: status(mount)[0]["state"] == "copied")
        with open(f"/proc/{pid}/fd/0", "wb", buffering=0) as stdin:
            stdin.write(b"\n")
        eventually(lambda: task_stat.stat(pid).comm == b"sleep")
        with opened(exact(mount, pid)) as fd:
            data = whole(fd)
            assert os.fstat(fd).st_size == len(data)
        assert b"sleep\0" in data


def test_a_look_up_waits_for_the_core_and_no_longer(
    mount_with: Callable[..., Mount], spawn: Spawn
) -> None:
    mount = mount_with("stop_timeout=0.5,unresponsive=fail")
    target = spawn("vforker")
    mount.expect("one of its threads does not stop, and unresponsive= forbids that")
    assert errno_of(exact(mount, target.pid).stat) == errno.EBUSY
    assert target.ask("release") == {"released": True}
    eventually(lambda: is_free(target.pid))
    eventually(lambda: status(mount) == [])


def test_a_caller_killed_in_a_look_up_leaves_nobody_stopped(
    mount_with: Callable[..., Mount], spawn: Spawn
) -> None:
    mount = mount_with("stop_timeout=3,open_timeout=0.3")
    target = spawn("vforker")
    mount.expect("its file was not opened for 0.3 s")
    with subprocess.Popen(["stat", exact(mount, target.pid)], stdout=subprocess.DEVNULL) as look:
        eventually(lambda: [stop["state"] for stop in status(mount)] == ["stopping"])
        assert status(mount)[0]["why"] == "waits to be opened"
        look.kill()
    eventually(lambda: status(mount) == [])
    assert target.ask("release") == {"released": True}
    eventually(lambda: is_free(target.pid))


def test_a_close_does_not_end_the_look_up_of_another(
    mount_with: Callable[..., Mount], spawn: Spawn
) -> None:
    mount = mount_with("stop_timeout=2")
    target = spawn("vforker")
    path = exact(mount, target.pid)
    sizes: list[int] = []
    look = threading.Thread(target=lambda: sizes.append(path.stat().st_size))
    with opened(mount / target.pid):
        look.start()
        wchan = Path(f"/proc/{os.getpid()}/task")
        eventually(lambda: any("request_wait" in t.read_text() for t in wchan.glob("*/wchan")))
    look.join()
    with opened(path) as fd:
        assert [os.fstat(fd).st_size] == sizes
        os.read(fd, 1)
    assert target.ask("release") == {"released": True}


def test_attributes_of_a_waiting_core_are_shown_to_the_user_who_asked(
    mount: Mount, spawn: Spawn
) -> None:
    target = spawn("threads", 1)
    with contextlib.suppress(OSError):
        exact(mount, target.pid).stat()
    assert os.getxattr(mount / target.pid, "user.gcorefs.state") == b"stopped"
    assert "user.gcorefs.state" in os.listxattr(mount / target.pid)
    os.kill(target.pid, signal.SIGKILL)
    eventually(lambda: status(mount) == [])


def test_a_rename_does_not_lock_the_root_until_the_core_is_ready(
    paused: Callable[..., Mount], spawn: Spawn
) -> None:
    """The kernel locks both directories, looks the names up, and then asks for permission."""
    stop = Pause(Step.RECORDED_ALL)
    mount = paused(stop)
    target = spawn("threads", 1)
    path = exact(mount, target.pid)
    errors: list[int] = []
    sizes: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: errors.append(errno_of(lambda: path.rename(mount.path / "name")))
        ),
        threading.Thread(target=lambda: sizes.append(path.stat().st_size)),
    ]
    for thread in threads:
        thread.start()
    stop.wait()
    threads[0].join()
    assert errors == [errno.EROFS]
    assert errno_of((mount.path / "another").stat) == errno.ENOENT
    assert sizes == []
    stop.end()
    threads[1].join()
    with opened(path) as fd:
        assert sizes == [len(whole(fd))]
