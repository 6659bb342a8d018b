"""The size before a file is opened: never less than the core has, and for ordinary programs not
much more."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gcorefs.kernel.proc import current_call, task_status, tasks
from gcorefs.look import look, rough_estimate
from tests.conftest import Mount, Target, text_of
from tests.mounted.conftest import eventually, is_stopped, opened, run, running
from tests.mounted.test_workloads import AS_POSTGRES, POSTGRES, WORKLOADS

TARGETS: list[tuple[Any, ...]] = [
    ("threads", 1),
    ("threads", 200),
    ("threads32", 20),
    ("bulk", 64),
    ("reserve", 10, 5000),
    ("reserve", 100, 2000),
    ("reserve", 1, 2000, "together"),
    ("scattered", 4000),
    ("mappings", 5000),
    ("sparse",),
    ("holes",),
    ("uffd",),
    ("sums", 8, 4),
    ("ledger",),
    ("churn", "leader"),
    ("registers", 3, "blocked"),
    ("registers32", 3, "blocked"),
    ("identity",),
    ("counter",),
    ("signals",),
    ("children",),
    ("confined",),
    ("waits",),
    ("mapper",),
    ("debugger",),
]
MASKS = (0x33, 0x0, 0x3, 0x10, 0x7F, 0x1FF)


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that does not change, and that nobody holds."""
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: is_stopped(pid))
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def sizes(mount: Mount, pid: int) -> tuple[int, int]:
    """The estimate, and the size of the core."""
    with frozen(pid):
        estimate = (mount / pid).stat().st_size
        with opened(mount / pid) as fd:
            truth = os.fstat(fd).st_size
        eventually(lambda: not any(task_status.tracer(pid, tid) for tid in tasks.tids(pid)))
    return estimate, truth


def assert_never_less(mount: Mount, pid: int) -> None:
    filter_ = Path(f"/proc/{tasks.ask_live_thread(pid, lambda tid: tid)}/coredump_filter")
    for mask in MASKS:
        filter_.write_text(hex(mask))
        rough = rough_estimate(look(pid))
        estimate, truth = sizes(mount, pid)
        assert min(estimate, rough) >= truth, hex(mask)


@pytest.mark.parametrize("words", TARGETS, ids=lambda words: "-".join(map(str, words)))
def test_the_estimate_is_never_less(
    mount: Mount, spawn: Callable[..., Target], words: tuple[Any, ...]
) -> None:
    assert_never_less(mount, spawn(*words).pid)


def test_nor_of_rare_memory(mount: Mount, kinds: Callable[[], Target]) -> None:
    assert_never_less(mount, kinds().pid)


def test_nor_of_mapped_files(mount: Mount, spawn: Callable[..., Target], tmp_path: Path) -> None:
    assert_never_less(mount, spawn("memory", tmp_path).pid)


@pytest.mark.parametrize("policy", ["filter", "kernel"])
def test_nor_of_what_was_written_and_protected(
    mount_with: Callable[..., Mount], tmp_path: Path, policy: str
) -> None:
    mount = mount_with(f"memory={policy}")
    file = tmp_path / "file"
    file.write_bytes(os.urandom(8 << 20))
    with running(sys.executable, "-c", PROTECTED, str(file)) as pid:
        estimate, truth = sizes(mount, pid)
    assert 8 << 20 < truth <= estimate


PROTECTED = """
import ctypes, mmap, signal, sys
file = open(sys.argv[1], "r+b")
memory = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
for place in (1, 5, 7):
    memory[place << 20] = 1
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
protect = ctypes.CDLL(None).mprotect
assert protect(ctypes.c_void_p(address + (4 << 20)), ctypes.c_size_t(2 << 20), mmap.PROT_READ) == 0
print("ready", flush=True)
signal.pause()
"""


def test_the_estimate_follows_the_filter(mount: Mount, spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 1)
    before = (mount / target.pid).stat().st_size
    with open(f"/proc/{target.pid}/coredump_filter", "w", encoding="ascii") as file:
        file.write("0x7f")
    eventually(lambda: (mount / target.pid).stat().st_size > before + (1 << 20))


PYTHON = """
import os, sys
memory = bytearray(b"x") * (50 << 20)
if sys.argv[1:] == ["fork"] and os.fork():
    os.wait()
print(os.getpid(), flush=True)
sys.stdin.read()
"""
IDLE = 'public class Idle { public static void main(String[] a) throws Exception \
{ System.out.println("ready"); Thread.sleep(Long.MAX_VALUE); } }'

Common = Callable[[Path], contextlib.AbstractContextManager[int]]


@contextlib.contextmanager
def java(tmp: Path) -> Iterator[int]:
    (tmp / "Idle.java").write_text(IDLE)
    subprocess.run(["javac", "-d", tmp, tmp / "Idle.java"], check=True)
    with running("java", "-Xmx256m", "-cp", tmp, "Idle") as pid:
        yield pid


@contextlib.contextmanager
def redis(tmp: Path) -> Iterator[int]:
    place = tmp / "redis.sock"
    words = ("redis-server", "--port", "0", "--unixsocket", place, "--save", "", "--dir", tmp)
    with running(*words) as pid:
        eventually(lambda: run("redis-cli", "-s", place, "ping").stdout == b"PONG\n")
        run("redis-cli", "-s", place, "debug", "populate", "100000", "key", "100")
        yield pid


@contextlib.contextmanager
def postgres(tmp: Path) -> Iterator[int]:
    data = tmp / "data"
    data.mkdir(mode=0o700)
    for path in (data, tmp):
        shutil.chown(path, "postgres", "postgres")
    words = ("-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
    assert run(*AS_POSTGRES, POSTGRES / "initdb", "-D", data, *words).returncode == 0
    command = [
        *AS_POSTGRES,
        POSTGRES / "postgres",
        "-D",
        data,
        "-k",
        tmp,
        "-c",
        "listen_addresses=",
    ]
    with subprocess.Popen(text_of(command), stderr=subprocess.DEVNULL) as server:
        try:
            ready = (*AS_POSTGRES, POSTGRES / "pg_isready", "-h", tmp)
            eventually(lambda: run(*ready).returncode == 0)
            yield server.pid
        finally:
            server.send_signal(signal.SIGQUIT)


CLOCK_NANOSLEEP = 230  # arch/x86/entry/syscalls/syscall_64.tbl

# The number: how many times the size of the core the estimate may be.  The estimate counts literal
# zeros for a quarter of the populated bytes and for 4 MiB of a .bss (elfcore/loads.py).  Whether a
# core has them depends on where the mappings of its process happen to lie.
COMMON: dict[str, tuple[Common, float]] = {
    "sleep": (lambda tmp: running("sh", "-c", "echo ready; exec sleep 1000"), 1.3),
    "bash": (lambda tmp: running("bash", "-c", "echo ready; read line; :"), 1.3),
    "python": (lambda tmp: running("/usr/bin/python3", "-c", PYTHON), 1.1),
    "node": (lambda tmp: running("node", WORKLOADS / "work.js", tmp / "node.sock"), 1.75),
    "java": (java, 1.3),
    "redis": (redis, 1.75),
    "postgres": (postgres, 1.75),
}


@pytest.mark.parametrize("program", COMMON)
def test_of_common_programs_the_estimate_is_near(
    mount: Mount, tmp_path: Path, program: str
) -> None:
    start, factor = COMMON[program]
    with start(tmp_path) as pid:
        if program == "sleep":
            eventually(lambda: (current_call.system_call(pid, pid) or (0,))[0] == CLOCK_NANOSLEEP)
        estimate, truth = sizes(mount, pid)
    assert truth <= estimate < truth * factor


def test_of_a_forked_child_the_estimate_is_near(mount: Mount) -> None:
    command = ["/usr/bin/python3", "-c", PYTHON, "fork"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            estimate, truth = sizes(mount, child)
        finally:
            os.kill(child, signal.SIGKILL)
    assert child != process.pid
    assert 50 << 20 < truth <= estimate < truth * 1.1


def test_of_much_memory_the_estimate_is_very_near(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    estimate, truth = sizes(mount, spawn("bulk", 256).pid)
    assert truth <= estimate < truth * 1.1


def test_of_many_threads_the_estimate_is_near(mount: Mount, spawn: Callable[..., Target]) -> None:
    """A process that has not asked for AMX has no room for its tiles in its notes, but nothing
    outside it shows whether it has asked (arch_prctl(2), ARCH_REQ_XCOMP_PERM)."""
    has_amx = "amx_tile" in Path("/proc/cpuinfo").read_text().split()
    tiles = 1000 * (11008 - 2688) if has_amx else 0  # sizes of the XSAVE area
    estimate, truth = sizes(mount, spawn("threads", 1000).pid)
    assert truth <= estimate < truth * 1.5 + tiles


def test_a_shared_file_that_others_filled_counts(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    """A child shares memory that its parent has written, but that it has not touched itself."""
    command = ["/usr/bin/python3", "-c", SHARES]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert int(task_status.status(child)["RssShmem"].split()[0]) < 1024
        try:
            estimate, truth = sizes(mount, child)
        finally:
            os.kill(child, signal.SIGKILL)
    assert 30 << 20 < truth <= estimate < truth * 1.5


SHARES = """
import mmap, os, signal, time
memory = mmap.mmap(-1, 64 << 20)
child = os.fork()
if not child:
    signal.pause()
memory[: 30 << 20] = b"x" * (30 << 20)
print(child, flush=True)
os.wait()
"""
