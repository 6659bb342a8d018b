"""A mount by an ordinary user.  /proc does not show its server everything: not other users'
processes under hidepid=, and not those of its own user that are set-uid or not dumpable."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.kernel.proc import task_stat, task_status
from gcorefs.steps import Step
from gcorefs.tuning import Tuning
from tests.conftest import GCOREFS, text_of
from tests.features import needs_bpf
from tests.mounted.conftest import (
    AS_NOBODY,
    NOBODY,
    Pause,
    assert_refused,
    eventually,
    is_free,
    reach_of,
    run,
)
from tests.tuned import program

# fusermount3 opens /dev/fuse as the user who mounts.
SETUP = """
set -e
D=$1 M=$2; shift 2
cp -a /dev/fuse $D/fuse; chmod 666 $D/fuse; mount --bind $D/fuse /dev/fuse
echo user_allow_other >$D/fuse.conf; mount --bind $D/fuse.conf /etc/fuse.conf
[ "$M" = - ] || mount -t proc -o "hidepid=$M" proc /proc
exec "$@"
"""


class UsersMount:
    """A mount of nobody, in its own mount namespace."""

    def __init__(self, folder: Path, hidepid: str, options: str, program: Path = GCOREFS) -> None:
        self.path = folder / "mnt"
        self.log = folder / "log"
        self.path.mkdir()
        self.log.touch()
        for place in (self.path, self.log):
            os.chown(place, NOBODY, NOBODY)
        words = [program, "mount", "--foreground", "--log-file", self.log]
        words += ["-o", options] if options else []
        command = ["unshare", "--mount", "sh", "-c", SETUP, "-", folder, hidepid, *AS_NOBODY]
        self.server = subprocess.Popen(text_of(text_of([*command, *words, self.path])))
        eventually(lambda: "mounted at" in self.log.read_text())

    def run(self, *words: object) -> "subprocess.CompletedProcess[bytes]":
        """A command of nobody that sees the mount."""
        return run(*self.entering(), *words)

    def entering(self) -> tuple[str, ...]:
        return ("nsenter", "--target", str(self.server.pid), "--mount", *AS_NOBODY)

    def __truediv__(self, pid: int) -> Path:
        return self.path / str(pid)

    def listed(self) -> set[int]:
        return set(map(int, self.run("ls", self.path).stdout.split()))

    def end(self) -> str:
        """Unmount it.  Returns the log."""
        self.server.terminate()
        assert self.server.wait(timeout=20) == 0
        return self.log.read_text()


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Callable[..., UsersMount]]:
    mounts: list[UsersMount] = []

    def make(hidepid: str = "-", options: str = "", program: Path = GCOREFS) -> UsersMount:
        mounts.append(UsersMount(tmp_path, hidepid, options, program))
        return mounts[-1]

    yield make
    for mount in mounts:
        assert "Traceback" not in mount.end()


@contextlib.contextmanager
def asleep(*words: object) -> Iterator[int]:
    with subprocess.Popen([*map(str, words), "1000"]) as process:
        try:
            eventually(lambda: task_stat.stat(process.pid).comm.startswith(b"sleep"))
            yield process.pid
            eventually(lambda: is_free(process.pid))
        finally:
            process.kill()


@pytest.mark.parametrize("hidepid", ["-", "1", "2", "4"])
def test_what_a_user_may_see_is_there_and_the_rest_is_refused(
    users: Callable[..., UsersMount], hidepid: str
) -> None:
    mount = users(hidepid)
    with asleep("sleep") as roots, asleep(*AS_NOBODY, "sleep") as own:
        listed = mount.listed()
        assert own in listed
        assert (roots in listed) == (hidepid == "-")
        result = mount.run("cat", mount / own)
        assert (result.stdout[:4], result.stderr) == (b"\x7fELF", b"")
        # If /proc shows it to all, all see its name.  Then the mode refuses, or /proc does.
        for command in ("stat", "cat"):
            result = mount.run(command, mount / roots)
            is_shown = command == "stat" and hidepid == "-"
            assert (b"Permission denied" in result.stderr) == (not is_shown), result
        assert b"No such file" in mount.run("stat", mount / (1 << 22)).stderr
    text = f"process {roots}: the kernel does not let gcorefs read"
    if hidepid == "-":
        assert text not in mount.log.read_text()
    else:
        eventually(lambda: text in mount.log.read_text())


def test_a_user_who_may_not_use_bpf_is_told_and_has_cores(
    users: Callable[..., UsersMount],
) -> None:
    needs_bpf()
    denied = "mappings come from smaps: bpf(2) is denied"
    mount = users()
    with asleep(*AS_NOBODY, "sleep") as own:
        assert mount.run("cat", mount / own).stdout[:4] == b"\x7fELF"
        told = mount.run(GCOREFS, "status", "--mount", mount.path).stdout.decode()
    assert f"{mount.path}: {denied}" in told
    assert mount.log.read_text().count(denied) == 1


@pytest.mark.parametrize("long_walk", [0, 1 << 30])
def test_a_user_who_may_not_use_bpf_has_dumps(tmp_path: Path, long_walk: int) -> None:
    """Whether it is tried, for a process with long page tables, or not."""
    tuned = program(tmp_path, Tuning(long_walk=long_walk))
    os.chmod(tmp_path, 0o755)
    with asleep(*AS_NOBODY, "sleep") as own:
        result = run(*AS_NOBODY, tuned, "dump", own, "-o", "-")
    assert (result.returncode, result.stdout[:4], result.stderr) == (0, b"\x7fELF", b"")


def test_a_mount_of_a_user_s_is_not_dead_because_root_may_not_enter_it(
    users: Callable[..., UsersMount],
) -> None:
    mount = users()
    inside = ("nsenter", "--target", str(mount.server.pid), "--mount")
    assert b"Permission denied" in run(*inside, "ls", mount.path).stderr
    assert_refused(run(*inside, GCOREFS, "mount", mount.path), f"{mount.path}: already mounted")
    assert_refused(
        run(*inside, GCOREFS, "status", "--mount", mount.path), f"{mount.path}: Permission denied"
    )
    # A lazy unmount would unmount it although a process is in it.
    command = [*mount.entering(), "sh", "-c", f"cd {mount.path} && echo in && read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as inmate:
        assert inmate.stdout is not None
        assert inmate.stdout.readline() == b"in\n"
        assert_refused(run(*inside, GCOREFS, "umount", mount.path), "busy")
        inmate.communicate(b"\n")
    assert mount.run("ls", mount.path).returncode == 0


KINDS = ("undumpable", "set-uid")
# PR_SET_DUMPABLE is 4 (prctl(2)).
UNDUMPABLE = "import ctypes; assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0\n"
ASLEEP = "import signal; print('ready', flush=True); signal.pause()"
SIZE = "import os, sys; print(os.stat(sys.argv[1]).st_size)"
OPEN = """
import os, sys
try:
    os.open(sys.argv[1], os.O_RDONLY)
except OSError as error:
    print(error.errno)
"""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def untraceable(kind: str, tmp_path: Path) -> Callable[[str], tuple[str, ...]]:
    """Words that run a script in a process of nobody that a server of nobody may not trace."""
    path = tmp_path / "python"
    shutil.copy(os.path.realpath(sys.executable), path)
    path.chmod(0o4755 if kind == "set-uid" else 0o755)
    before = UNDUMPABLE if kind == "undumpable" else ""
    return lambda script: (str(path), "-I", "-c", before + script)


def test_a_process_that_cannot_be_traced_is_shown_and_refused(
    users: Callable[..., UsersMount], untraceable: Callable[[str], tuple[str, ...]], kind: str
) -> None:
    mount = users(options="allow_other")
    command = [*AS_NOBODY, *untraceable(ASLEEP)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            # Its directory still belongs to its user (fs/proc/base.c, task_dump_owner).
            owner = NOBODY if kind == "undumpable" else 0
            file = mount / process.pid
            assert mount.run("stat", "-c", "%u %a", file).stdout == b"%d 400\n" % owner
            assert b"Permission denied" in mount.run("cat", file).stderr
            # The mode lets root in, but the server cannot judge root.
            entering = ("nsenter", "--target", str(mount.server.pid), "--mount")
            assert b"Permission denied" in run(*entering, "cat", file).stderr
            assert is_free(process.pid)
        finally:
            process.kill()
    unknown = "the opener cannot be identified from here (/proc does not show it)"
    eventually(lambda: unknown in mount.log.read_text())


@pytest.fixture
def paused_users(
    users: Callable[..., UsersMount], tmp_path: Path
) -> Iterator[Callable[..., UsersMount]]:
    """The same, with a server that waits in places."""
    made: list[Pause] = []

    def make(*pauses: Pause) -> UsersMount:
        made.extend(pauses)
        waits = tmp_path / "waits"
        waits.mkdir()
        waits.chmod(0o777)
        server = program(tmp_path, reach=reach_of(pauses, waits))
        return users(options="allow_other", program=server)

    yield make
    for pause in made:
        pause.end()


HOLD = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
print("opened", flush=True)
os.read(fd, 1)
print(os.fstat(fd).st_size, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def opened_by_nobody(mount: UsersMount, pid: int) -> Iterator["subprocess.Popen[bytes]"]:
    command = [*mount.entering(), sys.executable, "-I", "-c", HOLD, mount / pid]
    with subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == b"opened\n"
            yield process
            process.stdin.close()
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


def test_a_size_is_exact_also_for_one_that_cannot_be_looked_at(
    paused_users: Callable[..., UsersMount], untraceable: Callable[[str], tuple[str, ...]]
) -> None:
    """We cannot know whether it is in an open(2), so the answer waits for the core."""
    header, question = (
        Pause(Step.ASSEMBLING),
        Pause(Step.BEFORE_SIZE),
    )
    mount = paused_users(header, question)
    with asleep(*AS_NOBODY, "sleep") as pid, opened_by_nobody(mount, pid) as holder:
        header.wait()
        command = [*mount.entering(), *untraceable(SIZE), mount / pid]
        with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE) as asking:
            question.wait()
            question.end()
            header.end()
            output, _ = asking.communicate(timeout=60)
        assert holder.stdout is not None
        assert output == holder.stdout.readline()
        assert int(output) > 0


def test_an_open_that_comes_second_is_answered_while_the_first_waits(
    paused_users: Callable[..., UsersMount], untraceable: Callable[[str], tuple[str, ...]]
) -> None:
    header = Pause(Step.ASSEMBLING)
    mount = paused_users(header)
    with asleep(*AS_NOBODY, "sleep") as pid, opened_by_nobody(mount, pid):
        header.wait()
        result = mount.run(*untraceable(OPEN), mount / pid)
        assert (result.stdout, result.stderr) == (b"%d\n" % errno.EACCES, b"")
        assert not header.go.exists()
        header.end()
    text = f"process {pid}: the opener cannot be identified from here (/proc does not show it)"
    eventually(lambda: text in mount.log.read_text())


COPY = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
before = os.pread(fd, size, 0)
print(size, flush=True)
sys.stdin.readline()
assert os.pread(fd, size, 0) == before
print(os.fstat(fd).st_size, flush=True)
"""


def test_a_copy_is_readable_when_its_process_is_not_shown_any_more(
    users: Callable[..., UsersMount], tmp_path: Path
) -> None:
    path = tmp_path / "sleep"
    shutil.copy("/usr/bin/sleep", path)
    path.chmod(0o4755)
    mount = users("2", "hold=copy")
    words = [*AS_NOBODY, "sh", "-c", f"read line; exec {path} 1000"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            eventually(lambda: task_stat.stat(process.pid).comm == b"sh")
            command = [*mount.entering(), sys.executable, "-I", "-c", COPY, mount / process.pid]
            with subprocess.Popen(
                list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as reader:
                assert reader.stdout is not None
                assert reader.stdin is not None
                size = reader.stdout.readline()
                assert int(size) > 0
                process.stdin.write(b"\n")
                process.stdin.flush()
                eventually(lambda: task_status.status(process.pid)["Uid"].split()[1] == b"0")
                assert b"Permission denied" in mount.run("stat", mount / process.pid).stderr
                reader.stdin.write(b"\n")
                reader.stdin.flush()
                assert reader.stdout.readline() == size
                assert reader.wait(timeout=20) == 0
        finally:
            process.kill()
