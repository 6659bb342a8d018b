"""Shared by all tests: targets that print their own truth, a mount made by the command line, and
a check after each test that nothing is stopped, traced or mounted, and that no warning was logged.

Levels, each in its own folder:
    pure     no process
    fuzz     the same, with inputs that are guided by coverage
    live     real processes, no FUSE
    mounted  through the command line, with everyday tools
    readers  what debuggers and the kernel itself say about the same process
"""

import compileall
import contextlib
import fcntl
import gc
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gcorefs.kernel.proc import current_call, task_stat, task_status, tasks
from gcorefs.mount.mountpoints import FSTYPE
from gcorefs.sources import bpf_choice
from gcorefs.sources.bpf.loading import Choice, load
from gcorefs.tuning import Tuning
from tests.features import needs_bpf
from tests.tuned import tuned
from tests.turns import is_alone, turn

T = TypeVar("T")
TARGETS = Path(__file__).parent / "targets"
PACKAGE = Path(__file__).parents[1] / "gcorefs"
GCOREFS = Path(sys.executable).with_name("gcorefs")
PURE = {Path(__file__).parent / name for name in ("pure", "fuzz")}
"""Levels that need no system tool."""

CFLAGS = ["-g", "-O1", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror", "-pthread"]


# The tests send these, and whoever runs them in the background ignores them.
for _each in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_each) is signal.SIG_IGN:
        signal.signal(_each, signal.SIG_DFL)


class Target:
    """A program that has printed one line of truth about itself, and that answers commands."""

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
        """Send a command.  `line` reads its answer later."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(command + "\n")
        self.popen.stdin.flush()

    def kill(self) -> None:
        # Not Popen.kill(): it calls waitpid(2) first, and would take the stop of a tracee of this
        # process for its end.
        if self.popen.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # its tracer has reaped it
                os.kill(self.popen.pid, signal.SIGKILL)
        self.popen.communicate(timeout=60)

    def states(self) -> dict[int, tuple[str, int]]:
        """The state letter of every thread, and the process that traces it (0: none)."""
        return thread_states(self.pid)

    def state_letters(self) -> set[str]:
        """The state letters of all its threads."""
        return {state for state, _ in self.states().values()}


def of_each_thread(pid: int, ask: Callable[[int, int], T]) -> dict[int, T]:
    """`ask(pid, tid)` by thread, of each that has not ended and does not end meanwhile.

    ProcessLookupError: there is no such process.
    """
    found = {}
    for tid in tasks.tids(pid):
        with contextlib.suppress(ProcessLookupError):
            found[tid] = ask(pid, tid)
    return found


def thread_states(pid: int) -> dict[int, tuple[str, int]]:
    """By thread: its state letter, and the process that traces it (0: none)."""
    return of_each_thread(pid, _state)


def _state(pid: int, tid: int) -> tuple[str, int]:
    return task_stat.stat(pid, tid).state, task_status.tracer(pid, tid)


def text_of(command: Iterable[object]) -> list[str | bytes]:
    """The words of a command as subprocess wants them.  Paths and numbers are allowed."""
    return [word if isinstance(word, bytes) else str(word) for word in command]


def pytest_sessionstart() -> None:
    """Compile gcorefs to bytecode, as an installation does.  Otherwise each command of a test
    compiles all that it imports if no bytecode is written (PYTHONDONTWRITEBYTECODE): half its
    time."""
    compileall.compile_dir(PACKAGE, quiet=2)


def pytest_sessionfinish() -> None:
    """The command line may have run in this process, and has nothing collected then that was
    imported before it.  lief complains at the end about what is left."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def build(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """The path of a target, compiled when it is first used.  `threads32` is threads for 32 bits.

    Programs are kept from run to run, each in a folder named after the hash of all its inputs.
    """
    folder = pytestconfig.cache.mkdir("targets")
    compiler = subprocess.run(["gcc", "-v"], check=True, capture_output=True).stderr
    headers = b"".join(path.read_bytes() for path in sorted(TARGETS.glob("*.h")))

    def compile_(name: str) -> Path:
        if name.endswith("32") and os.uname().machine != "x86_64":
            pytest.skip("there are no 32-bit programs for this machine")
        names = [f"{name}.c", f"{name}.s", f"{name.removesuffix('32')}.c"]
        source = next(path for each in names if (path := TARGETS / each).exists())
        words = [*CFLAGS, *(["-m32"] if name.endswith("32") else [])]
        words += ["-nostdlib", "-static"] if source.suffix == ".s" else []
        made_of = (compiler, headers, source.read_bytes(), repr((words, str(source))).encode())
        program = folder / hashlib.sha256(b"\0".join(made_of)).hexdigest()[:16] / name
        if not program.exists():
            program.parent.mkdir(exist_ok=True)
            # Another worker may compile it too: a program gets its name when it is complete.
            part = program.with_suffix(f".{os.getpid()}")
            subprocess.run(["gcc", *words, "-o", part, source], check=True)
            part.rename(program)
        return program

    return compile_


@pytest.fixture
def spawn(build: Callable[[str], Path]) -> Iterator[Callable[..., Target]]:
    """Start a target by name.  After the test it must be neither stopped nor traced; then it is
    killed.

    With parent=True it is a child of another process, which prints a line for each status that it
    gets: {"wait": STATUS}.
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
        with contextlib.suppress(ProcessLookupError):  # it has ended
            for tid, (state, tracer) in target.states().items():
                if state in "Tt" or tracer:
                    hurt.append((target.argv, tid, state, tracer))
        target.kill()
    assert not hurt, f"left stopped or traced: {hurt}"


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A folder on its own tmpfs."""
    path = tmp_path / "tmpfs"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)  # a target may still map its files


NOT_IN_A_GUEST = {
    "bsdtar", "dlv", "go", "java", "jhsdb", "lldb", "node", "rclone", "redis-server", "rsync", "zip"
}  # fmt: skip
"""Tools that tests/vm/arm64.py leaves out: a test that needs one of them fails there."""

NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")


@contextlib.contextmanager
def more_huge_pages(count: int) -> Iterator[None]:
    """Add huge pages to those that exist, which others may use at the same time."""
    added = _change_huge_pages(count)
    if added < count:  # memory is fragmented
        Path("/proc/sys/vm/compact_memory").write_text("1")
        added += _change_huge_pages(count - added)
    try:
        assert added == count, f"{added} of {count} huge pages are to be had"
        yield
    finally:
        _change_huge_pages(-added)


def _change_huge_pages(by: int) -> int:
    """Returns by how many the number has changed."""
    with NR_HUGEPAGES.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = int(NR_HUGEPAGES.read_text())
        NR_HUGEPAGES.write_text(str(max(0, before + by)))
        return int(NR_HUGEPAGES.read_text()) - before


@pytest.fixture
def huge_pages() -> Iterator[None]:
    # Twice as many as needed: the pages of a process that has ended come back a moment later if
    # somebody is reading /proc about its memory.
    with more_huge_pages(4):
        yield


@pytest.fixture
def kinds(huge_pages: None, tmpfs: Path, spawn: Callable[..., Target]) -> Callable[[], Target]:
    """Start a program with the rarer kinds of memory (targets/kinds.c), one at a time."""
    return lambda: spawn("kinds", tmpfs)


@pytest.fixture
def swap(tmp_path: Path) -> Iterator[None]:
    """Swap space.  On a file system that cannot have it, such as overlay, it is a loop device."""
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
    """Raise a kernel setting below /proc/sys to a number, and restore it afterwards."""
    path = Path("/proc/sys") / name
    # The whole machine has one such setting, and other tests may run there.
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = path.read_text()
        path.write_text(str(max(number, int(before))))
        try:
            yield
        finally:
            path.write_text(before)


@pytest.fixture(scope="session")
def bpf_programs() -> Iterator[Choice]:
    """Loaded once: the kernel takes a tenth of a second for it."""
    needs_bpf()
    with warnings.catch_warnings():  # other tests may have left threads that wait
        warnings.simplefilter("ignore", DeprecationWarning)
        programs = load()
    yield programs
    for descriptor in programs.descriptors:
        os.close(descriptor)


@pytest.fixture
def bpf(bpf_programs: Choice, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Mappings come from BPF in this process, too, until the test ends."""
    monkeypatch.setattr(bpf_choice, "load", lambda: bpf_programs)
    choice = bpf_choice.choose("auto")
    try:
        assert str(choice) == "mappings come from BPF"
        yield
    finally:
        bpf_choice.choose("off")


@pytest.fixture(params=["smaps", "BPF"])
def each_source(request: pytest.FixtureRequest) -> None:
    """Run a test with mappings from smaps, and with mappings from BPF."""
    if request.param == "BPF":
        request.getfixturevalue("bpf")


@pytest.fixture
def tune() -> Iterator[Callable[[Tuning], None]]:
    """Have this process use another tuning until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda values: stack.enter_context(tuned(values))


@pytest.fixture
def nothing_is_collected() -> Iterator[None]:
    """Reference cycles stay, as in a server, whose garbage collector runs rarely."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def sysctl() -> Iterator[Callable[[str, int], None]]:
    """Raise kernel settings for one test."""
    with contextlib.ExitStack() as stack:
        yield lambda name, number: stack.enter_context(at_least(name, number))


class Mount:
    """A mount made by the command line, with its log."""

    MARK = "the text written to .gcorefs/release is not a pid (uid 0)"
    """A refusal that each test causes at its end: when it is logged, all earlier lines are."""

    def __init__(self, path: Path, log: Path) -> None:
        self.path = path
        self.log = log
        self.expected: list[str] = []
        self.allowed: list[str] = []
        self.program = GCOREFS
        """Another one serves with another tuning (tests/tuned.py)."""
        self.words: list[str] = []
        """Other words of the command, beside options of the mount."""
        self.prefix: list[str] = []
        """Words before the command that runs the server under some condition."""

    def make(self, *options: str) -> None:
        words = [word for option in options for word in ("-o", option)]
        words = [*self.words, *words]
        command = [*self.prefix, self.program, "mount", "--log-file", self.log, *words, self.path]
        subprocess.run(text_of(command), check=True)

    def __truediv__(self, pid: int) -> Path:
        return self.path / str(pid)

    def expect(self, text: str) -> None:
        """Expect a warning that the test causes: it must be logged."""
        self.expected.append(text)

    def allow(self, text: str) -> None:
        """Allow a warning that may or may not be logged."""
        self.allowed.append(text)

    @property
    def server(self) -> int:
        """The pid of the server: the process that has our log open, and is not this process.

        Only processes of that name are checked: another one may be in an execve(2) that hangs, and
        a read of its /proc would wait for that.
        """
        for pid in tasks.pids():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() != "gcorefs\n":
                    continue
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    with contextlib.suppress(OSError):  # it was closed just now
                        if os.readlink(f"/proc/{pid}/fd/{fd}") == str(self.log):
                            return pid
        raise LookupError("no server")

    @property
    def is_there(self) -> bool:
        return str(self.path) in [place for place, _ in mounts()]

    def warnings(self) -> list[str]:
        if not self.log.exists():
            return []
        words = ("WARNING", "ERROR", "CRITICAL", "Traceback")
        return [line for line in self.log.read_text().splitlines() if any(w in line for w in words)]

    def assert_warned_as_expected(self) -> None:
        logged = self.warnings()
        for text in self.expected:
            assert any(text in line for line in logged), f"not logged: {text}"
        known = (*self.expected, *self.allowed, self.MARK)
        rest = [line for line in logged if not any(text in line for text in known)]
        assert not rest, f"logged: {rest}"


@pytest.fixture
def unmounted(tmp_path: Path) -> Iterator[Mount]:
    """A mount point.  If something is mounted there after the test, it is unmounted."""
    path = tmp_path / "mnt"
    path.mkdir()
    mount = Mount(path, tmp_path / "log")
    yield mount
    take_away(mount)
    mount.assert_warned_as_expected()


def take_away(mount: Mount) -> None:
    for _ in range(sum(str(mount.path) == place for place, _ in mounts())):
        subprocess.run(["umount", "--lazy", mount.path], check=False)


class SharedMount:
    """A mount with the default options, for one test after the other.

    Each test sees the log from its own beginning on, and must leave a mount that holds no process.
    If a test has ended the mount, the next test gets a new one.  So does a test after the pids have
    begun again from the lowest: the kernel may still know an inode of a process that had the pid of
    a new target.
    """

    def __init__(self, folder: Path, program: Path = GCOREFS) -> None:
        self._folder = folder
        self._program = program
        self._count = 0
        self._mount: Mount | None = None
        self._last_pid = last_pid()

    @contextlib.contextmanager
    def for_a_test(self) -> Iterator[Mount]:
        mount = self._mount
        before, self._last_pid = self._last_pid, last_pid()
        if mount is None or not mount.is_there or self._last_pid < before:
            mount = self._make()
        os.truncate(mount.log, 0)
        mount.expected, mount.allowed = [], []
        try:
            yield mount
            if mount.is_there:
                wait_until_idle(mount)
            mount.assert_warned_as_expected()
        except BaseException:
            self.end()
            raise

    def _make(self) -> Mount:
        self.end()
        self._count += 1
        path = self._folder / f"mnt{self._count}"
        path.mkdir()
        self._mount = Mount(path, self._folder / f"log{self._count}")
        self._mount.program = self._program
        self._mount.make()
        return self._mount

    def end(self) -> None:
        """End its server in good order; the mount goes with it."""
        mount, self._mount = self._mount, None
        if mount is None:
            return
        with contextlib.suppress(LookupError, ProcessLookupError):
            server = mount.server
            os.kill(server, signal.SIGTERM)
            wait_until_gone(server)
        is_left = str(mount.path) in [place for place, _ in mounts()]
        take_away(mount)
        assert not is_left, "the server left its mount behind"


def last_pid() -> int:
    """The pid that was given last (fs/proc/loadavg.c, loadavg_proc_show)."""
    return int(Path("/proc/loadavg").read_text().split()[-1])


def wait_until_idle(mount: Mount) -> None:
    """Wait until the server holds no process, and its log is written up to now."""
    control = mount.path / ".gcorefs"
    deadline = time.monotonic() + 60
    while json.loads((control / "status").read_bytes())["stops"]:
        assert time.monotonic() < deadline, "a process is held"
        time.sleep(0.002)
    # A thread writes the lines in order: all lines of this test come before this one.
    before = mount.log.read_text().count(Mount.MARK)
    with contextlib.suppress(OSError), (control / "release").open("w") as file:
        file.write("nobody\n")
    while mount.log.read_text().count(Mount.MARK) == before:
        assert time.monotonic() < deadline, "the log is not written"
        time.sleep(0.002)


@pytest.fixture(scope="session")
def shared_mount() -> Iterator[SharedMount]:
    with tempfile.TemporaryDirectory() as folder:  # only we can reach pytest's own folders
        os.chmod(folder, 0o755)
        shared = SharedMount(Path(folder))
        yield shared
        shared.end()


@pytest.fixture
def mount(shared_mount: SharedMount) -> Iterator[Mount]:
    """A mount with the default options; `mount / pid` is a file."""
    with shared_mount.for_a_test() as mount:
        yield mount


def mounts() -> list[tuple[str, str]]:
    """Mount point and type of every mount of gcorefs."""
    # As bytes: a mount point may have any byte in its name, and others mount too.
    rows = [line.split(b" ") for line in Path("/proc/self/mounts").read_bytes().split(b"\n")[:-1]]
    return [(os.fsdecode(row[1]), FSTYPE) for row in rows if row[2] == FSTYPE.encode()]


def wait_until_gone(pid: int, seconds: float = 60) -> None:
    """Wait until a process has ended, by its pidfd (pidfd_open(2))."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([fd], [], [], seconds)
        assert ready, f"process {pid} does not end"
    finally:
        os.close(fd)


def switches(pid: int) -> dict[int, tuple[bytes, bytes]]:
    """How often each thread has slept and was preempted."""
    return {
        tid: (found["voluntary_ctxt_switches"], found["nonvoluntary_ctxt_switches"])
        for tid in tasks.tids(pid)
        for found in [task_status.status(pid, tid)]
    }


def is_of_a_worker(call: tuple[Any, ...]) -> bool:
    """True for a worker of io_uring(7), which may wait for a file.  It has no user mode: no stack
    and no program counter."""
    return call[-2:] == (0, 0)


def wait_until_asleep(pid: int) -> None:
    """Wait until every thread sleeps in a system call, as before the stop."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        calls = [current_call.system_call(pid, tid) for tid in tasks.tids(pid)]
        states = [task_stat.stat(pid, tid).state for tid in tasks.tids(pid)]
        pairs = zip(states, calls, strict=True)
        if all(
            call and call[0] >= 0 and (state == "S" or is_of_a_worker(call))
            for state, call in pairs
        ):
            return
        time.sleep(0.001)
    raise AssertionError(f"{pid} does not come to rest: {states} {calls}")


@pytest.fixture(autouse=True, scope="session")
def tools(request: pytest.FixtureRequest) -> None:
    """Fails the run if a needed tool is missing, except at the pure levels."""
    folders = {item.path.parent for item in request.session.items}
    if folders <= PURE:
        return
    needed = (
        "gcc gdb gcore lldb eu-readelf eu-stack fusermount3 redis-server java node strace getfattr "
        "go dlv jhsdb objdump file busybox bsdtar cpio rclone rsync tar zip"
    )
    left_out = NOT_IN_A_GUEST if os.uname().machine == "aarch64" else set()
    wanted = [name for name in needed.split() if name not in left_out]
    missing = [name for name in wanted if shutil.which(name) is None]
    assert not missing, f"not installed: {missing}; run 'make test'"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that run alone come last.  Among the others, each of them would wait until the tests of
    all workers are done, and have the workers wait for it."""
    items.sort(key=is_alone)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """The time-out of a test does not count the time until its turn."""
    with turn(is_alone(item)):
        return (yield)


@pytest.fixture(autouse=True)
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After every test, nothing may be mounted where tests mount."""
    yield
    base = str(tmp_path_factory.getbasetemp())
    assert [place for place, _ in mounts() if place.startswith(base)] == []
