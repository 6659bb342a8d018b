"""@glance (stop=none): a core of a process that nobody stops.  hold=none: one that is not held."""

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.kernel.proc import current_call, task_stat, task_status, tasks
from gcorefs.steps import Step
from tests.cgroups import Freezer
from tests.conftest import Mount, Target, switches, wait_until_asleep
from tests.mounted.conftest import (
    Pause,
    errno_of,
    eventually,
    is_free,
    is_held,
    note_of,
    offset_of,
    opened,
    whole,
)
from tests.mounted.test_crashing import MIB, SlowReader, assert_whole, crash
from tests.mounted.test_crashing import slow_reader as slow_reader  # noqa: PLC0414
from tests.readers.corefile import Core
from tests.readers.debuggers import gdb_threads
from tests.readers.test_memory import bounds, regions

Spawn = Callable[..., Target]


@pytest.fixture
def glance(mount: Mount, tmp_path: Path) -> Callable[[int], Core]:
    """The core of a process that is looked at and not stopped."""

    def take(pid: int, profile: str = "@glance") -> Core:
        path = tmp_path / "core"
        with opened(mount.path / profile / str(pid)) as fd:
            path.write_bytes(whole(fd))
        return Core(path)

    return take


def test_no_thread_sees_it(spawn: Spawn, glance: Callable[[int], Core], mount: Mount) -> None:
    target = spawn("threads", 20)
    wait_until_asleep(target.pid)
    before = switches(target.pid)
    for profile in ("@glance", "@threads,stop=none", "@stacks,stop=none", "@glance,hold=copy"):
        with opened(mount.path / profile / str(target.pid)) as fd:
            assert whole(fd)
            assert is_free(target.pid)
    assert switches(target.pid) == before


@pytest.fixture
def without_bpf(mount_with: Callable[..., Mount]) -> Mount:
    return mount_with("bpf=off")


def test_each_thread_has_the_registers_of_its_call(
    spawn: Spawn, without_bpf: Mount, tmp_path: Path
) -> None:
    target = spawn("threads", 5)
    wait_until_asleep(target.pid)
    core = Core(kept(without_bpf, target.pid, tmp_path))
    tids = {target.pid, *(thread["tid"] for thread in target.truth["threads"])}
    assert set(core.threads) == tids
    for tid, thread in core.threads.items():
        call = current_call.system_call(target.pid, tid)
        assert call is not None
        number, arguments, stack_pointer, program_counter = call
        assert thread.status["orig_rax"] == number
        assert thread.status["rdi"] == arguments[0]
        assert thread.status["rsp"] == stack_pointer
        assert thread.status["rip"] == program_counter
    facts = note_of(core.path.read_bytes())
    assert facts["threads"] == {"stopped": 0, "partial": 6, "zero": 0, "omitted": 0}
    assert sorted(facts["tids"]["partial"]) == sorted(tids)
    assert facts["policy"]["stop"] == "none"


def test_memory_that_does_not_change_is_true(
    spawn: Spawn, glance: Callable[..., Core], tmp_path: Path
) -> None:
    target = spawn("memory", tmp_path)
    core = glance(target.pid, "@glance,memory=all")
    for name, (region, content) in regions(target).items():
        if name != "dontdump":
            assert core.read(*bounds(region)) == content, name


def kept(mount: Mount, pid: int, folder: Path, profile: str = "@glance") -> Path:
    path = folder / "kept"
    path.write_bytes((mount.path / profile / str(pid)).read_bytes())
    return path


def test_a_thread_that_runs_has_no_registers(without_bpf: Mount, tmp_path: Path) -> None:
    spinner = "while :; do :; done"
    with subprocess.Popen(["/bin/sh", "-c", spinner]) as process:
        try:
            eventually(lambda: task_stat.stat(process.pid).utime > 0)
            facts = note_of(kept(without_bpf, process.pid, tmp_path).read_bytes())
        finally:
            process.kill()
    assert (facts["threads"]["zero"], facts["threads"]["partial"]) == (1, 0)


# Processes that cannot be stopped.


def assert_has_every_thread(core: Core, pid: int) -> None:
    assert set(core.threads) == set(tasks.tids(pid))


def test_a_process_under_strace(
    mount: Mount, spawn: Spawn, strace: Callable[[int], int], glance: Callable[..., Core]
) -> None:
    target = spawn("threads", 5)
    tracer = strace(target.pid)
    assert_has_every_thread(glance(target.pid), target.pid)
    assert_has_every_thread(glance(target.pid, "@threads,stop=none"), target.pid)
    assert task_status.tracer(target.pid, target.pid) == tracer
    mount.expect(f"TracerPid {tracer}")
    assert errno_of(lambda: os.open(mount / target.pid, os.O_RDONLY)) == errno.EBUSY


def test_a_thread_that_nothing_stops(spawn: Spawn, glance: Callable[[int], Core]) -> None:
    target = spawn("vforker")
    eventually(lambda: "D" in {task_stat.stat(target.pid, t).state for t in tasks.tids(target.pid)})
    assert_has_every_thread(glance(target.pid), target.pid)
    target.ask("release")


@pytest.fixture(params=["v1", "v2"])
def freezer(request: pytest.FixtureRequest) -> Iterator[Freezer]:
    freezer = Freezer(request.param)
    yield freezer
    freezer.remove()


def test_a_frozen_process(spawn: Spawn, glance: Callable[[int], Core], freezer: Freezer) -> None:
    target = spawn("threads", 5)
    freezer.add(target.pid)
    freezer.freeze()
    assert_has_every_thread(glance(target.pid), target.pid)
    assert freezer.is_frozen
    freezer.thaw()


def test_a_process_that_writes_its_core(
    spawn: Spawn, glance: Callable[[int], Core], slow_reader: SlowReader
) -> None:
    target = spawn("crasher", MIB)
    crash(target, "segv")
    assert_has_every_thread(glance(target.pid), target.pid)
    assert_whole(slow_reader.finish(target))


def test_threads_that_come_and_go(spawn: Spawn, glance: Callable[[int], Core]) -> None:
    target = spawn("churn", "threads")
    for _ in range(20):
        core = glance(target.pid)
        assert len(core.threads) >= 1


# What others do meanwhile.


def test_others_may_stop_the_process_meanwhile(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 3)
    pid = str(target.pid)
    with opened(mount.path / "@glance" / pid) as glance:
        assert whole(glance)
        with opened(mount.path / pid) as core:
            facts = note_of(whole(core))
            assert is_held(target.pid)
            assert whole(glance)
        assert facts["threads"]["stopped"] == 4
        eventually(lambda: is_free(target.pid))
        with opened(mount.path / "@all" / pid) as core:
            assert whole(core)
    eventually(lambda: is_free(target.pid))


LIVE = pytest.mark.parametrize("profile", ["@glance", "@hold=none"])
"""Under both, memory is read while the process runs."""

EXECUTES = """
import os, sys
print('{"pid": %d}' % os.getpid(), flush=True)
sys.stdin.readline()
os.execv("/bin/sleep", ["sleep", "1000"])
"""

SHARED_AT = 0x10000000000
SHARED = 64 << 10
MAPS = f"""
import ctypes, mmap, os, sys
ctypes.CDLL(None).mmap.restype = ctypes.c_void_p
def map(flags, fd, byte):
    address = ctypes.c_void_p({SHARED_AT})
    at = ctypes.CDLL(None).mmap(address, {SHARED}, 3, flags | 0x10, fd, ctypes.c_long(0))
    ctypes.memset({SHARED_AT}, ord(byte), {SHARED})
    print('{{"pid": %d}}' % os.getpid(), flush=True)
    sys.stdin.readline()
"""
SHARES = f"""
{MAPS}
map(mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, -1, "o")
os.execv(sys.executable, [sys.executable, "-c", os.environ["SECOND"]])
"""
MAPS_A_FILE = f"""
{MAPS}
import tempfile
file = tempfile.TemporaryFile()
file.write(b"n" * {SHARED})
file.flush()
map(mmap.MAP_SHARED, file.fileno(), "n")
"""

UNMAPS = """
import mmap, os, sys
m = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m[:] = b"\\xa5" * len(m)
print('{"pid": %d}' % os.getpid(), flush=True)
sys.stdin.readline()
m.close()
print("{}", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def python() -> Iterator[Callable[[str], Target]]:
    targets: list[Target] = []

    def begin(script: str) -> Target:
        targets.append(Target(["/usr/bin/python3", "-c", script]))
        return targets[-1]

    yield begin
    for target in targets:
        target.kill()


@LIVE
@pytest.mark.parametrize("end", ["exec", "kill"])
def test_after_its_end_there_is_no_other_memory(
    mount: Mount, python: Callable[[str], Target], profile: str, end: str
) -> None:
    target = python(EXECUTES)
    with opened(mount.path / profile / str(target.pid)) as fd:
        assert os.pread(fd, 4, 0) == b"\x7fELF"
        size = os.fstat(fd).st_size
        eventually(lambda: is_free(target.pid))
        if end == "exec":
            target.tell("")
            eventually(lambda: task_stat.stat(target.pid).comm == b"sleep")
        else:
            os.kill(target.pid, signal.SIGKILL)
            eventually(lambda: task_stat.stat(target.pid).is_dead)
        mount.expect("the process died, or called execve(2), while it was being dumped")
        assert errno_of(lambda: os.pread(fd, 1 << 20, size // 2)) == errno.EIO


@LIVE
def test_shared_memory_is_not_that_of_another_program(
    mount: Mount,
    python: Callable[[str], Target],
    monkeypatch: pytest.MonkeyPatch,
    profile: str,
) -> None:
    """It is read from its file, and the next program may have another file at the same place: one
    that the reader may not read, if it is a set-uid program."""
    monkeypatch.setenv("SECOND", MAPS_A_FILE)
    target = python(SHARES)
    with opened(mount.path / profile / str(target.pid)) as fd:
        place = offset_of(os.pread(fd, 1 << 20, 0), SHARED_AT)
        assert os.pread(fd, 8, place) == b"o" * 8
        eventually(lambda: is_free(target.pid))
        target.ask("")
        mount.expect("the process died, or called execve(2), while it was being dumped")
        assert errno_of(lambda: os.pread(fd, 8, place + SHARED // 2)) == errno.EIO


def test_there_is_no_core_of_two_programs(paused: Callable[..., Mount], spawn: Spawn) -> None:
    """The second may be a set-uid program, and nobody has judged who may see its mappings and
    registers.  Its memory does not tell: another process keeps that of the first."""
    pause = Pause(Step.SMAPS)
    mount, target = paused(pause), spawn("sharer")
    with opened(mount.path / "@glance" / str(target.pid)) as fd:
        pause.wait()
        target.tell("exec")
        eventually(lambda: task_stat.stat(target.pid).comm == b"sleep")
        mount.expect("the process died, or called execve(2), while it was being dumped")
        pause.end()
        assert errno_of(lambda: os.read(fd, 4)) == errno.EIO


@LIVE
def test_a_core_of_its_past_is_not_that_of_another_program(
    mount: Mount, python: Callable[[str], Target], profile: str
) -> None:
    """Who opens the file after an execve(2) gets a core of the new program, and no byte of the
    old one, which may have been another user's."""
    target = python(EXECUTES)
    path = mount.path / profile / str(target.pid)
    with opened(path) as fd:
        header = os.pread(fd, 4096, 0)
        eventually(lambda: is_free(target.pid))
        target.tell("")
        eventually(lambda: task_stat.stat(target.pid).comm == b"sleep")
        with opened(path) as again:
            other = whole(again)
            assert os.fstat(again).st_ino != os.fstat(fd).st_ino
        assert os.pread(fd, 4096, 0) == header
    assert b"sleep\0" in other
    assert b"python3" not in other


@LIVE
def test_what_was_unmapped_is_zeros_that_are_counted(
    mount: Mount, python: Callable[[str], Target], profile: str
) -> None:
    target = python(UNMAPS)
    with opened(mount.path / profile / str(target.pid)) as fd:
        os.pread(fd, 1, 0)
        eventually(lambda: is_free(target.pid))
        target.ask("")
        text = whole(fd)
        assert text.count(b"\xa5" * 4096) < (64 << 20) // 4096
        lost = int(os.getxattr(fd, "user.gcorefs.bytes.unreadable"))
    assert lost >= 32 << 20


def test_without_a_hold_the_registers_are_those_of_the_stop(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 5)
    with opened(mount.path / "@hold=none" / str(target.pid)) as fd:
        facts = note_of(whole(fd))
        eventually(lambda: is_free(target.pid))
        assert target.ask("ping") == {"pong": 1}
        assert note_of(whole(fd)) == facts
    assert facts["threads"]["stopped"] == 6
    assert (facts["policy"]["hold"], facts["policy"]["stop"]) == ("none", "all")


def test_without_a_hold_memory_that_does_not_change_is_true(
    spawn: Spawn, glance: Callable[..., Core], tmp_path: Path
) -> None:
    target = spawn("memory", tmp_path)
    core = glance(target.pid, "@hold=none,memory=all")
    for name, (region, content) in regions(target).items():
        if name != "dontdump":
            assert core.read(*bounds(region)) == content, name


def test_gdb_shows_the_innermost_frame(
    mount: Mount, spawn: Spawn, glance: Callable[[int], Core]
) -> None:
    target = spawn("threads", 3)
    wait_until_asleep(target.pid)
    core = glance(target.pid)
    found = gdb_threads(target.argv[0], core.path, "--", "thread apply all bt 1")
    assert len(found) == 4
    assert all("#0 " in text for text in found.values())
