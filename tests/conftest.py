"""What every test stands on: targets that print their own truth, a mount made by the command
line, and a look round afterwards: nothing stopped, nothing traced, nothing mounted, no
warning logged.

Levels, each in its folder:
    pure     no process
    fuzz     the same, with inputs led by what they reach
    live     real processes, no FUSE
    mounted  through the command line, with the tools that people use
    readers  what debuggers and the kernel itself say of the same process
"""

import contextlib
import fcntl
import gc
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gcorefs.mount.server import FSTYPE
from gcorefs.process import procfs

TARGETS = Path(__file__).parent / "targets"
GCOREFS = Path(sys.executable).with_name("gcorefs")
CFLAGS = ["-g", "-O1", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror", "-pthread"]


class Target:
    """A program that has printed one line of truth about itself and answers commands."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.popen = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            self.truth: dict[str, Any] = self.line()
            self.pid: int = self.truth["pid"]
        except BaseException:
            self.kill()
            raise

    def line(self) -> dict[str, Any]:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, f"{self.argv} ended without a word"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, command: str) -> dict[str, Any]:
        self.tell(command)
        return self.line()

    def tell(self, command: str) -> None:
        """A command whose answer is to come later, by line()."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(command + "\n")
        self.popen.stdin.flush()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.communicate(timeout=10)

    def states(self) -> dict[int, tuple[str, int]]:
        """State letter of every thread, and the process that traces it (0: none)."""
        states = {}
        for tid in procfs.tids(self.pid):
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                states[tid] = procfs.stat(self.pid, tid).state, procfs.tracer(self.pid, tid)
        return states


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The path of a target, compiled at its first use: `threads32` is threads for 32 bits."""
    folder = tmp_path_factory.mktemp("targets")

    def compile_(name: str) -> Path:
        program = folder / name
        if not program.exists():
            names = [f"{name}.c", f"{name}.s", f"{name.removesuffix('32')}.c"]
            source = next(path for each in names if (path := TARGETS / each).exists())
            words = ["-m32"] if name.endswith("32") else []
            words += ["-nostdlib", "-static"] if source.suffix == ".s" else []
            subprocess.run(["gcc", *CFLAGS, *words, "-o", program, source], check=True)
        return program

    return compile_


@pytest.fixture
def spawn(build: Callable[[str], Path]) -> Iterator[Callable[..., Target]]:
    """Start a target by name; it is ended after the test, and must be free to run then.

    With parent=True it is not our own child, and its parent says in further lines what it
    is told of it: {"wait": STATUS}.
    """
    targets: list[Target] = []

    def start(name: str, *arguments: object, parent: bool = False) -> Target:
        wrapper = [str(build("parent"))] if parent else []
        target = Target([*wrapper, str(build(name)), *map(str, arguments)])
        targets.append(target)
        return target

    yield start
    hurt = []
    for target in targets:
        with contextlib.suppress(ProcessLookupError):  # it ended: nothing is left to be hurt
            for tid, (state, tracer) in target.states().items():
                if state in "Tt" or tracer:
                    hurt.append((target.argv, tid, state, tracer))
        target.kill()
    assert not hurt, f"left stopped or traced: {hurt}"


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A folder on a tmpfs of its own."""
    path = tmp_path / "tmpfs"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)  # a target may still map its files


NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")


@contextlib.contextmanager
def more_huge_pages(count: int) -> Iterator[None]:
    """Beside those that there are, which others may use at the same time."""
    added = _change_huge_pages(count)
    if added < count:  # memory is in small pieces
        Path("/proc/sys/vm/compact_memory").write_text("1")
        added += _change_huge_pages(count - added)
    try:
        assert added == count, f"{added} of {count} huge pages are to be had"
        yield
    finally:
        _change_huge_pages(-added)


def _change_huge_pages(by: int) -> int:
    """By how many it is."""
    with NR_HUGEPAGES.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = int(NR_HUGEPAGES.read_text())
        NR_HUGEPAGES.write_text(str(max(0, before + by)))
        return int(NR_HUGEPAGES.read_text()) - before


@pytest.fixture
def huge_pages() -> Iterator[None]:
    # Twice as many as it takes: those of a process that has ended come back a moment later,
    # where somebody is just asking /proc about its memory.
    with more_huge_pages(4):
        yield


@pytest.fixture
def kinds(huge_pages: None, tmpfs: Path, spawn: Callable[..., Target]) -> Callable[[], Target]:
    """Start a program with the rarer kinds of memory (targets/kinds.c), one at a time."""
    return lambda: spawn("kinds", tmpfs)


@pytest.fixture
def swap(tmp_path: Path) -> Iterator[None]:
    """Room to swap to.  Where the file system cannot have it, as overlay cannot: a loop device."""
    path = tmp_path / "swap"
    path.write_bytes(bytes(16 << 20))
    path.chmod(0o600)
    subprocess.run(["mkswap", path], check=True, capture_output=True)
    place, loop = str(path), None
    if subprocess.run(["swapon", place], check=False, capture_output=True).returncode:
        command = ["losetup", "--find", "--show", place]
        loop = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        place = loop
        subprocess.run(["swapon", place], check=True)
    yield
    subprocess.run(["swapoff", place], check=True)
    if loop:
        subprocess.run(["losetup", "--detach", loop], check=True)


@contextlib.contextmanager
def at_least(name: str, number: int) -> Iterator[None]:
    """A setting of the kernel below /proc/sys raised to a number, and as it was afterwards."""
    path = Path("/proc/sys") / name
    # There is one for the whole machine, where other tests may run.
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = path.read_text()
        path.write_text(str(max(number, int(before))))
        try:
            yield
        finally:
            path.write_text(before)


@pytest.fixture
def nothing_is_collected() -> Iterator[None]:
    """What is in a circle stays, as in a server, whose collector of garbage runs rarely."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def sysctl() -> Iterator[Callable[[str, int], None]]:
    """Raise settings of the kernel for one test."""
    with contextlib.ExitStack() as stack:
        yield lambda name, number: stack.enter_context(at_least(name, number))


class Mount:
    """A mount made by the command line, with its log."""

    def __init__(self, path: Path, log: Path) -> None:
        self.path = path
        self.log = log
        self.expected: list[str] = []
        self.allowed: list[str] = []
        self.prefix: list[str] = []
        """Words that run what stands behind them: the server is to run under a condition."""

    def make(self, *options: str) -> None:
        words = [word for option in options for word in ("-o", option)]
        command = [*self.prefix, GCOREFS, "mount", "--log-file", self.log, *words, self.path]
        subprocess.run(command, check=True, timeout=30)

    def __truediv__(self, pid: int) -> Path:
        return self.path / str(pid)

    def expect(self, text: str) -> None:
        """A warning that the test provokes, and so must be logged."""
        self.expected.append(text)

    def allow(self, text: str) -> None:
        """A warning that may be logged, or not, as things fall."""
        self.allowed.append(text)

    @property
    def server(self) -> int:
        """The daemon's pid: the one that holds our log open and is not us."""
        for pid in procfs.pids():
            with contextlib.suppress(OSError):
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    if os.readlink(f"/proc/{pid}/fd/{fd}") == str(self.log):
                        return pid
        raise LookupError("no server")

    def warnings(self) -> list[str]:
        if not self.log.exists():
            return []
        words = ("WARNING", "ERROR", "CRITICAL", "Traceback")
        return [line for line in self.log.read_text().splitlines() if any(w in line for w in words)]


@pytest.fixture
def unmounted(tmp_path: Path) -> Iterator[Mount]:
    """A place to mount at; whatever is there after the test is taken away."""
    path = tmp_path / "mnt"
    path.mkdir()
    mount = Mount(path, tmp_path / "log")
    yield mount
    for _ in range(sum(str(path) == place for place, _ in mounts())):
        subprocess.run(["umount", "--lazy", path], check=False)
    logged = mount.warnings()
    for text in mount.expected:
        assert any(text in line for line in logged), f"not logged: {text}"
    known = (*mount.expected, *mount.allowed)
    rest = [line for line in logged if not any(text in line for text in known)]
    assert not rest, f"logged: {rest}"


@pytest.fixture
def mount(unmounted: Mount) -> Iterator[Mount]:
    """A mount with the options that people get; `mount / pid` is a file."""
    unmounted.make()
    server = unmounted.server
    yield unmounted
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, signal.SIGTERM)
    wait_until_gone(server)
    assert str(unmounted.path) not in [place for place, _ in mounts()]


def mounts() -> list[tuple[str, str]]:
    """Mount point and type of every mount of ours."""
    # Bytes: a mount point may have any in its name, and others mount too.
    rows = [line.split(b" ") for line in Path("/proc/self/mounts").read_bytes().split(b"\n")[:-1]]
    return [(os.fsdecode(row[1]), FSTYPE) for row in rows if row[2] == FSTYPE.encode()]


def wait_until_gone(pid: int, seconds: float = 20) -> None:
    """Until a process has ended, as its pidfd tells (pidfd_open(2))."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([fd], [], [], seconds)
        assert ready, f"process {pid} does not end"
    finally:
        os.close(fd)


def wait_until_asleep(pid: int) -> None:
    """Until every thread sleeps in a system call, as before it was stopped."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        calls = [procfs.system_call(pid, tid) for tid in procfs.tids(pid)]
        states = [procfs.stat(pid, tid).state for tid in procfs.tids(pid)]
        if set(states) == {"S"} and all(call and call[0] >= 0 for call in calls):
            return
        time.sleep(0.001)
    raise AssertionError(f"{pid} does not come to rest: {states} {calls}")


@pytest.fixture(autouse=True, scope="session")
def tools() -> None:
    """Nothing needed may be missing: a missing tool fails the run."""
    needed = (
        "gcc gdb gcore lldb eu-readelf eu-stack fusermount3 redis-server java node strace getfattr "
        "go dlv jhsdb objdump file busybox bsdtar cpio rclone rsync tar zip"
    )
    missing = [name for name in needed.split() if shutil.which(name) is None]
    assert not missing, f"not installed: {missing}; run 'make test'"


@pytest.fixture(autouse=True)
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After every test: nothing is mounted where tests mount."""
    yield
    base = str(tmp_path_factory.getbasetemp())
    assert [place for place, _ in mounts() if place.startswith(base)] == []
