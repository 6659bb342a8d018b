"""A mount of root shows each user what /proc, mounted with hidepid=, shows them (proc(5)).

Each mount is in its own mount namespace, with its own /proc.
"""

import contextlib
import errno
import functools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.kernel.proc import task_stat, tasks
from tests.conftest import GCOREFS, Mount, Target, text_of, wait_until_gone
from tests.mounted.conftest import NOBODY, eventually, is_free, is_held, run, user
from tests.mounted.test_users_mount import asleep

OTHER = 4002
MEMBERS = 4003
"""The group in gid=."""

WHO = {
    "root": (),
    "owner": user(NOBODY),
    "another user": user(OTHER),
    "member of gid=": ("setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", f"--groups={MEMBERS}"),
    "root without CAP_SYS_PTRACE": ("setpriv", "--bounding-set=-sys_ptrace"),
}
MODES = ("0", "1", "2", "4")

SETUP = 'mount -t proc -o "hidepid=$1,gid=$2" proc /proc && shift 2 && exec "$@"'


class Hiding:
    """A mount of root, for all users."""

    def __init__(self, folder: Path, hidepid: str) -> None:
        self.path, self.log = folder / "mnt", folder / "log"
        self.path.mkdir()
        words = [GCOREFS, "mount", "--foreground", "--log-file", self.log, "-o", "allow_other"]
        command: list[object] = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            SETUP,
            "-",
            hidepid,
            str(MEMBERS),
        ]
        self.server = subprocess.Popen(text_of([*command, *words, self.path]))
        eventually(lambda: self.log.exists() and "mounted at" in self.log.read_text())

    @property
    def inside(self) -> tuple[str, ...]:
        return ("nsenter", "--target", str(self.server.pid), "--mount")

    def run(self, who: tuple[str, ...], *words: object) -> "subprocess.CompletedProcess[bytes]":
        return run(*self.inside, *who, *words)

    def __truediv__(self, pid: int) -> Path:
        return self.path / str(pid)

    def end(self) -> None:
        self.server.terminate()
        wait_until_gone(self.server.pid)
        assert self.server.wait() == 0


@pytest.fixture
def hiding(tmp_path: Path) -> Iterator[Callable[[str], Hiding]]:
    made: list[Hiding] = []

    def make(hidepid: str) -> Hiding:
        made.append(Hiding(tmp_path, hidepid))
        return made[-1]

    yield make
    for each in made:
        each.end()
        assert "Traceback" not in each.log.read_text()


LISTED_BY_ONE = 'for D in /proc "$1" /proc; do cd "$D"; echo [0-9]*; done'
"""One process lists both, because it sees itself, and /proc again: processes come and go."""


@pytest.mark.parametrize("mode", MODES)
def test_everybody_lists_what_proc_lists(hiding: Callable[[str], Hiding], mode: str) -> None:
    mount = hiding(mode)
    kernels = {pid for pid in tasks.pids() if is_kernel_thread(pid)}

    def unseen() -> set[int]:
        """Processes with more capabilities than the server, such as the first of some machines."""
        seen = mount.run((), "ls", "/proc").stdout.split()
        return set(tasks.pids()) - {int(pid) for pid in seen if pid.isdigit()}

    with asleep("sleep") as roots, asleep(*user(NOBODY), "sleep") as own:
        for who, words in WHO.items():
            result = mount.run(words, "sh", "-c", LISTED_BY_ONE, "-", mount.path)
            before, ours, after = (
                {int(pid) for pid in line.split() if pid.isdigit()}
                for line in result.stdout.splitlines()
            )
            assert not ours & kernels
            # Others start processes at any time, which may live for a moment; the kernel, threads.
            assert not [pid for pid in ours - (before | after) if is_user_process(pid)], who
            missing = {pid for pid in (before & after) - ours if is_user_process(pid)}
            assert missing <= unseen(), who
            sees_all = mode in "01" or who == "root" or (who == "member of gid=" and mode == "2")
            assert (roots in ours) == (mount.server.pid in ours) == sees_all, who
            assert (own in ours) == (sees_all or who == "owner"), who


def is_kernel_thread(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        return task_stat.stat(pid).is_kernel_thread
    return False


def is_user_process(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        return not task_stat.stat(pid).is_kernel_thread
    return False


# For each process: number, owner, and whether any size is shown.
def shown(mount: Hiding, who: tuple[str, ...], *pids: int) -> list[bytes]:
    lines = []
    for pid in pids:
        result = mount.run(who, "stat", "-c", "%u %s", mount / pid)
        owner, _, size = result.stdout.partition(b" ")
        lines.append(owner + (b" all" if int(size) else b" name") if size else result.stderr[-26:])
    return lines


NONE = b"No such file or directory\n"


@pytest.mark.parametrize("mode", MODES)
def test_everybody_sees_of_each_what_proc_shows(hiding: Callable[[str], Hiding], mode: str) -> None:
    mount = hiding(mode)
    hidden = {"0": b"%d all", "1": b"%d name", "2": NONE, "4": NONE}[mode]
    of_root, of_nobody = (hidden % uid if b"%" in hidden else hidden for uid in (0, NOBODY))
    with asleep("sleep") as roots, asleep(*user(NOBODY), "sleep") as own:
        for who, words in WHO.items():
            seen = shown(mount, words, roots, own, mount.server.pid, 1 << 22)
            if who == "root" or (who == "member of gid=" and mode != "4"):
                assert seen == [b"0 all", b"65534 all", b"0 all", NONE], who
            else:
                nobody = b"65534 all" if who == "owner" else of_nobody
                assert seen == [of_root, nobody, of_root, NONE], who


def test_options_of_proc_that_change_count_from_then_on(hiding: Callable[[str], Hiding]) -> None:
    mount = hiding("0")
    with asleep("sleep") as roots:
        assert shown(mount, user(NOBODY), roots) == [b"0 all"]
        for mode, seen in (("2", NONE), ("1", b"0 name"), ("0", b"0 all")):
            mount.run((), "mount", "-o", f"remount,hidepid={mode}", "/proc")
            eventually(functools.partial(is_shown_as, seen, mount, roots))


def is_shown_as(seen: bytes, mount: Hiding, pid: int) -> bool:
    return shown(mount, user(NOBODY), pid) == [seen]


def test_subset_pid_hides_no_process(hiding: Callable[[str], Hiding]) -> None:
    mount = hiding("0,subset=pid")
    with asleep("sleep") as roots, asleep(*user(NOBODY), "sleep") as own:
        assert shown(mount, user(OTHER), roots, own) == [b"0 all", b"65534 all"]


# What the errno of stat, listxattr, open and release could reveal.
ERRNOS = """
import os, sys
path, pid = sys.argv[1], sys.argv[2]
def errno(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return 0
core, exact = f"{path}/{pid}", f"{path}/.gcorefs/exact/{pid}"
release = os.open(f"{path}/.gcorefs/release", os.O_WRONLY)
print(*(errno(os.stat, core), errno(os.stat, exact), errno(os.open, core, 0),
    errno(os.listxattr, core), errno(os.getxattr, core, "user.gcorefs.state"),
    errno(os.write, release, pid.encode())))
"""


def errnos(mount: Hiding, who: tuple[str, ...], pid: int) -> list[int]:
    result = mount.run(who, "/usr/bin/python3", "-c", ERRNOS, mount.path, pid)
    assert result.stderr == b""
    return [int(word) for word in result.stdout.split()]


@pytest.mark.parametrize("mode", ["2", "4"])
def test_nobody_learns_whether_a_hidden_process_is_held_or_exists(
    hiding: Callable[[str], Hiding], spawn: Callable[..., Target], mode: str
) -> None:
    mount, target = hiding(mode), spawn("threads", 1)
    told = [*5 * [errno.ENOENT], errno.ESRCH]
    assert errnos(mount, user(OTHER), 1 << 22) == told
    assert errnos(mount, user(OTHER), target.pid) == told
    with held(mount, target):
        assert errnos(mount, user(OTHER), target.pid) == told
        # A user to whom /proc shows the process learns that it is held.
        told = errnos(mount, WHO["member of gid="], target.pid)
        assert told[-1] == (errno.EPERM if mode == "2" else errno.ESRCH)


def test_with_hidepid_1_a_name_tells_nothing_of_a_stop(
    hiding: Callable[[str], Hiding], spawn: Callable[..., Target]
) -> None:
    mount, target = hiding("1"), spawn("threads", 1)
    told = errnos(mount, user(OTHER), target.pid)
    assert (told[0], told[2], told[-1]) == (0, errno.EACCES, errno.ESRCH)
    look = ("stat", "-c", "%u %s %B %h", mount / target.pid)
    seen = mount.run(user(OTHER), *look).stdout
    assert seen.startswith(b"0 0 ")
    with held(mount, target):
        assert errnos(mount, user(OTHER), target.pid) == told
        assert mount.run(user(OTHER), *look).stdout == seen


@contextlib.contextmanager
def held(mount: Hiding, target: Target) -> Iterator[None]:
    """A process that root holds."""
    script = 'exec 3<"$1"; head -c 4 <&3; echo; read line'
    words = [*mount.inside, "sh", "-c", script, "-", str(mount / target.pid)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe) as reader:
        try:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"\x7fELF\n"
            assert is_held(target.pid)
            yield
        finally:
            reader.kill()
    eventually(lambda: is_free(target.pid))


# Every process with an open file may read it and ask for its size, even if it was passed on.
def test_a_file_that_was_handed_on_tells_its_size(
    hiding: Callable[[str], Hiding], spawn: Callable[..., Target]
) -> None:
    mount, target = hiding("2"), spawn("threads", 1)
    script = 'exec 3<"$1"; stat -L -c %s /dev/fd/3; shift; exec "$@" stat -c %s - <&3'
    words = ("sh", "-c", script, "-", str(mount / target.pid), *user(OTHER))
    result = mount.run((), *words)
    assert result.stderr == b""
    mine, theirs = result.stdout.split()
    assert int(mine) == int(theirs) > 0


def test_the_exact_size_is_for_those_who_may_open(
    everybodys: Mount, spawn: Callable[..., Target]
) -> None:
    """Without hidepid=.  Others see an estimate, and that does not change what the readers see."""
    target = spawn("threads", 1)
    path = everybodys / target.pid
    place = os.open(path, os.O_PATH)
    before = int(run(*user(OTHER), "stat", "-c", "%s", path).stdout)
    fd = os.open(path, os.O_RDONLY)
    try:
        exact = os.fstat(fd)
        assert len(os.pread(fd, 4, 0)) == 4
        size, number = map(int, run(*user(OTHER), "stat", "-c", "%s %i", path).stdout.split())
        assert number != exact.st_ino
        assert size != exact.st_size
        assert abs(size - before) < 1 << 20
        ask = "import os; print(os.fstat(0).st_size)"
        script = [*user(OTHER), "/usr/bin/python3", "-c", ask]
        # O_PATH gives no right to read: the name must be looked up again.
        assert b"Stale" in run(*script, stdin=place).stderr
        assert int(run(*script, stdin=fd).stdout) == exact.st_size
        assert run(*user(OTHER), "cat", path).returncode == 1
        assert (os.stat(path).st_size, os.stat(path).st_ino) == (exact.st_size, exact.st_ino)
        assert os.sendfile(os.open(os.devnull, os.O_WRONLY), fd, exact.st_size - 4, 8) == 4
    finally:
        os.close(fd)
        os.close(place)
    eventually(lambda: is_free(target.pid))
    number = int(run(*user(OTHER), "stat", "-c", "%i", path).stdout)
    assert number == os.stat(path).st_ino
