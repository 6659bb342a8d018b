"""Shared by the tests through a mount: the command line, open files, waiting for a condition.

A target is let go only after close(2) has returned, because the kernel does not wait for
FUSE_RELEASE.  So a test that asks whether a target runs again must wait until it does.
"""

import contextlib
import ctypes
import errno
import functools
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gcorefs.kernel.proc import procfile, task_stat, task_status, tasks
from gcorefs.steps import Step
from gcorefs.tuning import Tuning
from tests.conftest import (
    GCOREFS,
    Mount,
    Target,
    of_each_thread,
    thread_states,
    wait_until_gone,
)
from tests.mounted import faultpoints
from tests.mounted.faultpoints import Hold, Point
from tests.tuned import GCOREFS_HAS, program

if TYPE_CHECKING:
    from tests.mounted.parties import Ledger

PAGE = os.sysconf("SC_PAGE_SIZE")
NOBODY = 65534


def user(uid: int) -> tuple[str, ...]:
    """Words that run the command after them as another user, in the group of that number."""
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")


AS_NOBODY = user(NOBODY)
UNIT = Path(__file__).parents[2] / "systemd" / "gcorefs.service"
CUT_OFF = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}
"""The errors of files of a mount that is gone (fs/fuse/dev.c, fuse_abort_conn)."""


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < seconds, "it never came to be"
        # An emulated processor would have hardly any time left for what we wait for.
        time.sleep(max(0.002, waited / 100))


def is_held(pid: int) -> bool:
    """True if a tracer has stopped every thread."""
    return all(task_stat.stat(pid, tid).state == "t" for tid in tasks.tids(pid))


def is_stopped(pid: int) -> bool:
    """True if job control has stopped every thread that lives."""
    try:
        return {task_stat.stat(pid, tid).state for tid in tasks.tids(pid)} <= set("TZ")
    except ProcessLookupError:  # a thread has ended meanwhile
        return False


def is_free(pid: int) -> bool:
    """True if no thread is stopped or traced, or if there is none."""
    try:
        states = thread_states(pid).values()
    except ProcessLookupError:
        return True
    return all(state not in "tT" and tracer == 0 for state, tracer in states)


def sleeping_in(pid: int) -> set[str]:
    """The functions of the kernel in which the threads of a process sleep (proc(5), wchan)."""
    try:
        return set(of_each_thread(pid, _wchan).values())
    except ProcessLookupError:
        return set()


def _wchan(pid: int, tid: int) -> str:
    return procfile.read(f"{pid}/task/{tid}/wchan").decode()


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """An open file that no other process has."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        try:
            os.close(fd)
        except OSError as error:
            # If the mount is gone, the file is closed nevertheless (close(2), "Dealing with error
            # returns from close()").
            if error.errno not in CUT_OFF:
                raise


def whole(fd: int) -> bytes:
    """All bytes of an open file, from its beginning, whatever size stat(2) shows."""
    pieces = []
    offset = 0
    while piece := os.pread(fd, 1 << 20, offset):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)


def memory_offset(header: bytes) -> int:
    """Where the memory begins in a core: p_offset of the first PT_LOAD (elf(5)).

    The first program header is PT_NOTE.
    """
    return int.from_bytes(header[64 + 56 + 8 : 64 + 56 + 16], "little")


def offset_of(header: bytes, address: int) -> int:
    """The offset of the byte at `address` in a core (elf(5), Elf64_Phdr)."""
    (count,) = struct.unpack_from("<H", header, 56)
    for number in range(count):
        kind, _, offset, start, _, size = struct.unpack_from("<IIQQQQ", header, 64 + 56 * number)
        if kind == 1 and start <= address < start + size:
            return int(offset + address - start)
    raise LookupError(f"{address:#x} is not in the core")


@contextlib.contextmanager
def blocked(*numbers: signal.Signals) -> Iterator[None]:
    """A child that is started meanwhile blocks these signals."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def errno_of(call: Callable[[], object]) -> int:
    """The errno with which a call fails; 0 if it succeeds."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


def run(*command: object, **kwargs: Any) -> "subprocess.CompletedProcess[bytes]":
    """Run a command to its end.  The result has its output.

    It may take as long as its test, which ends it if it hangs: on an emulated processor cpio needs
    minutes for a core, because it reads 512 bytes at a time.
    """
    return subprocess.run(
        [str(word) for word in command], capture_output=True, check=False, **kwargs
    )


def gcorefs(*words: object, **kwargs: Any) -> "subprocess.CompletedProcess[bytes]":
    return run(GCOREFS, *words, **kwargs)


_MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def most_memory_of(*words: object) -> int:
    """Bytes of memory that a command of gcorefs has had at one time (getrusage(2), ru_maxrss)."""
    result = run(sys.executable, "-c", _MEASURE, GCOREFS, *words)
    assert result.returncode == 0, result.stderr
    return int(result.stdout) << 10


def assert_refused(result: "subprocess.CompletedProcess[bytes]", *words: str) -> None:
    """Status 1, and one line of text that has `words`."""
    lines = result.stderr.decode().splitlines()
    assert (result.returncode, len(lines)) == (1, 1), result
    assert lines[0].startswith("Error: ")
    for word in words:
        assert word in lines[0]


@contextlib.contextmanager
def running(*words: object) -> Iterator[int]:
    """The pid of a program that has written a line."""
    command = [str(word) for word in words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), f"{command} did not start"
            yield process.pid
        finally:
            process.kill()


CLONE3 = 435
_libc = ctypes.PyDLL(None, use_errno=True)


def start_as(pid: int) -> int:
    """Start a process with a pid of our choice: clone3(2), set_tid."""
    wanted = (ctypes.c_int * 1)(pid)
    arguments = struct.pack(
        "<11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1, 0
    )
    child: int = _libc.syscall(CLONE3, arguments, len(arguments))
    if child == 0:
        try:
            # Do not leave this to the exec: it would wait for the mount with a lock held.
            os.closerange(3, 1024)
            os.execvp("sleep", ["sleep", "1000"])
        finally:
            os._exit(127)
    if child < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return child


def replace(target: Target) -> int:
    """Kill a target, and start another process with its pid."""
    start = task_stat.stat(target.pid).start_time
    target.kill()
    # The clock tick of its start distinguishes a process from a later one.
    eventually(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * task_stat.TICKS > start + 1)
    assert start_as(target.pid) == target.pid
    return target.pid


@contextlib.contextmanager
def replaced(target: Target) -> Iterator[int]:
    """The same; the new process ends with the block."""
    later = replace(target)
    try:
        yield later
    finally:
        os.kill(later, signal.SIGKILL)
        os.waitpid(later, 0)


def has_stopped(mount: Mount, pid: int, times: int) -> bool:
    """True if the log has so many stops of a process."""
    return stops(mount, pid) == times


def stops(mount: Mount, pid: int) -> int:
    """The number of stops of a process in the log; each is logged when it has ended."""
    return mount.log.read_text().count(f"process {pid}: opened by")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder that every user can reach; only we can reach pytest's own folder."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def spawn(spawn: Callable[..., Target]) -> Iterator[Callable[..., Target]]:
    """Targets that must be let go, at the latest a moment after the test's last close(2)."""
    targets: list[Target] = []

    def start(name: str, *arguments: object) -> Target:
        targets.append(spawn(name, *arguments))
        return targets[-1]

    yield start
    for target in targets:
        eventually(functools.partial(is_free, target.pid))


@pytest.fixture
def mount_with(unmounted: Mount) -> Iterator[Callable[..., Mount]]:
    """Make the mount with options."""
    servers = []

    def make(*options: str) -> Mount:
        unmounted.make(*options)
        servers.append(unmounted.server)
        return unmounted

    yield make
    for server in servers:
        end(server)


# The server's `reach`, with the pauses of a test: by step, which time, and two files.
PAUSES = """
import os, time

pauses = {pauses}

def is_zygote():
    # It carries out a stop itself, so that each worker starts with the results of that.
    with open("/proc/self/comm") as file:
        return file.read() == "gcorefs-zygote\\n"

def count(reached):
    # Counts in all processes, because each stop may have its own process.
    number = 1
    while True:
        try:
            os.close(os.open(f"{{reached}}.{{number}}", os.O_CREAT | os.O_EXCL))
            return number
        except FileExistsError:
            number += 1

def wait(reached, go):
    os.close(os.open(reached, os.O_CREAT))
    end = time.monotonic() + 60  # in case the test dies first
    while not os.path.exists(go) and time.monotonic() < end:
        time.sleep(0.002)

def reach(step, pid):
    if step.name in pauses and not is_zygote():
        nth, reached, go = pauses[step.name]
        if count(reached) == nth:
            wait(reached, go)
"""


# Notes each module that is imported once `ready` is there, in all processes.
IMPORTS = """
import os, sys

def note(event, arguments):
    if event == "import" and arguments[0] not in sys.modules and os.path.exists({ready!r}):
        with open({imports!r}, "a") as file:
            print(arguments[0], file=file)

sys.addaudithook(note)
"""


class Imports:
    """A program, and what it imports after a test has said that it is ready.

    Its files may be replaced by an upgrade, or removed, while it runs.
    """

    def __init__(self, folder: Path) -> None:
        self._ready, self._imports = folder / "ready", folder / "imports"
        code = IMPORTS.format(ready=str(self._ready), imports=str(self._imports))
        self.program = program(folder, first=code)

    def begin(self) -> None:
        """The program is ready."""
        self._ready.touch()

    def assert_none(self) -> None:
        assert self._ready.exists()
        found = self._imports.read_text() if self._imports.exists() else ""
        assert sorted(set(found.split())) == []


class Pause:
    """A step at which the server waits until it may go on, when it reaches that for the nth
    time."""

    def __init__(self, step: Step, nth: int = 1) -> None:
        self.step = step
        self.nth = nth
        self.reached = self.go = Path()

    def put(self, folder: Path) -> tuple[int, str, str]:
        """Use files in `folder`.  What the server must know."""
        self.reached, self.go = (folder / f"{self.step.name}.{word}" for word in ("reached", "go"))
        return self.nth, str(self.reached), str(self.go)

    def wait(self) -> None:
        eventually(self.reached.exists)

    def end(self) -> None:
        self.go.touch()


def reach_of(pauses: Sequence[Pause], folder: Path) -> str:
    """The code of a `reach` that waits at each of the pauses (tests/tuned.py)."""
    assert len({pause.step for pause in pauses}) == len(pauses), "one pause for each step"
    return PAUSES.format(pauses={pause.step.name: pause.put(folder) for pause in pauses})


@pytest.fixture
def paused(
    mount_with: Callable[..., Mount], unmounted: Mount, tmp_path: Path
) -> Iterator[Callable[..., Mount]]:
    """Make a mount, with options and a tuning, whose server waits at steps."""
    made: list[Pause] = []

    def make(*pauses: Pause, options: str = "allow_other", tuning: Tuning = GCOREFS_HAS) -> Mount:
        made.extend(pauses)
        unmounted.program = program(tmp_path, tuning, reach=reach_of(pauses, tmp_path))
        return mount_with(options)

    yield make
    for pause in made:
        pause.end()


@pytest.fixture
def ledger(build: Callable[[str], Path]) -> Iterator[Callable[[], "Ledger"]]:
    """Start a target with a ledger."""
    from tests.mounted.parties import Ledger  # noqa: PLC0415 - it imports this module

    ledgers: list[Ledger] = []

    def start() -> Ledger:
        ledgers.append(Ledger([str(build("parent")), "--times", str(build("ledger"))]))
        return ledgers[-1]

    yield start
    for each in ledgers:
        each.end()


@pytest.fixture
def everybodys(mount_with: Callable[..., Mount]) -> Mount:
    return mount_with("allow_other")


REPOSITORY = Path(__file__).parents[2]
FAULTPOINTS = """
import sys

sys.path.insert(0, "{repository}")
from tests.mounted import faultpoints

reach = faultpoints.reach_of("{token}")
"""


@pytest.fixture
def token() -> str:
    """It separates the fault points of different tests."""
    return uuid.uuid4().hex


@pytest.fixture
def interruptible(tmp_path: Path, token: str) -> Path:
    """The command line with fault points."""
    return program(tmp_path, reach=FAULTPOINTS.format(repository=REPOSITORY, token=token))


@pytest.fixture
def held_at(
    unmounted: Mount, interruptible: Path, token: str
) -> Callable[[Point, int], AbstractContextManager[Hold]]:
    """Hold a server, or another `interruptible`, at a fault point, for one process.

    The server must be started after this.
    """
    unmounted.program = interruptible
    return lambda point, pid: faultpoints.held(point, token, pid)


def family(server: int) -> list[int]:
    """A server, its zygote, and its workers.

    A mount may be ready before the zygote has carried out the stop that warms it up, of a child
    that ends then.
    """
    (zygote,) = tasks.children(server)
    eventually(lambda: all(map(_is_worker, tasks.children(zygote))))
    return [server, zygote, *tasks.children(zygote)]


def _is_worker(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        return task_stat.stat(pid).comm == b"gcorefs-worker"
    return False


def end(server: int) -> None:
    """End a server in good order, if it still exists."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, signal.SIGTERM)
    wait_until_gone(server)


def service_bounds() -> str:
    """The capabilities that the unit grants, in the format of setpriv --bounding-set=."""
    line = next(
        line for line in UNIT.read_text().splitlines() if line.startswith("CapabilityBoundingSet=")
    )
    granted = [name.removeprefix("CAP_").lower() for name in line.partition("=")[2].split()]
    return ",".join(["-all", *(f"+{name}" for name in granted)])


@pytest.fixture
def strace() -> Iterator[Callable[[int], int]]:
    """Let strace(1) trace a thread, which holds the thread without stopping it."""
    tracers: list[subprocess.Popen[bytes]] = []

    def trace(tid: int) -> int:
        tracer = subprocess.Popen(["strace", "-q", "-o", "/dev/null", "-p", str(tid)])
        tracers.append(tracer)
        eventually(lambda: task_status.tracer(tid, tid) == tracer.pid)
        return tracer.pid

    yield trace
    for tracer in tracers:
        tracer.terminate()
        tracer.wait(timeout=20)


def note_of(data: bytes) -> dict[str, Any]:
    """The GCOREFS note of a core."""
    text = data[data.index(b'{"version":') :].decode("ascii", "replace")
    facts: dict[str, Any]
    facts, _ = json.JSONDecoder().raw_decode(text)
    return facts


class Commands:
    """Runs gcorefs again and again (commands.py)."""

    def __init__(self) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.mounted.commands"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )

    def run(self, folder: Path, *words: str | bytes) -> tuple[int, str]:
        """Start it in `folder` with words of any bytes.  Returns its status and its output."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        said = folder / "said"
        request = [str(folder), str(said), [os.fsdecode(word) for word in words]]
        self._popen.stdin.write(json.dumps(request).encode() + b"\n")
        self._popen.stdin.flush()
        return int(self._popen.stdout.readline()), said.read_text()

    def end(self) -> None:
        self._popen.communicate(timeout=60)


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    commands = Commands()
    yield commands
    commands.end()
