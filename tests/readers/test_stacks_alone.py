"""memory=stacks: from a core with little more than the stacks, debuggers give the same backtraces
as from a full core of the same stop.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from gcorefs import Policy, stop
from gcorefs.api import Core
from gcorefs.kernel.proc import current_call
from tests.conftest import TARGETS, Target, wait_until_asleep
from tests.mounted.conftest import eventually
from tests.readers.debuggers import eu_stack, gdb, gdb_threads, lldb
from tests.readers.test_drgn import drgn
from tests.readers.test_lost_files import build_library

FULL = Policy(memory="filter")
STACKS = Policy(memory="stacks")


@dataclass(frozen=True)
class Both:
    """Two cores of one instant."""

    full: Path
    stacks: Path
    facts: dict[str, dict[str, int]]
    """Of the small one."""


def write(core: Core, path: Path) -> Path:
    with path.open("wb") as file:
        for offset in range(0, core.size, 1 << 20):
            file.write(core.read(offset, 1 << 20))
    return path


def both(pid: int, folder: Path, small: Policy = STACKS) -> Both:
    with stop(pid) as stopped:
        full, stacks = stopped.core(FULL), stopped.core(small)
        facts = stacks.facts
        return Both(write(full, folder / "full"), write(stacks, folder / "stacks"), facts)


def of_gdb(program: Path, core: Path) -> str:
    text = gdb(program, core, "--", "info sharedlibrary", "thread apply all bt")
    return text.replace(str(core), "CORE")


def of_lldb(program: Path, core: Path) -> str:
    return lldb(program, core, "image list", "bt all").replace(str(core), "CORE")


def of_eu_stack(program: Path, core: Path) -> str:
    # It fails where an unwinder meets the end of a stack that says no end.
    done = subprocess.run(
        ["eu-stack", "--core", core, "-e", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def assert_equal(program: Path, cores: Both) -> None:
    for read in (of_gdb, of_lldb, of_eu_stack):
        small = read(program, cores.stacks)
        assert small == read(program, cores.full)
        assert "#0" in small


@pytest.mark.parametrize("program", ["threads", "threads32"])
def test_threads_have_the_same_stacks(
    program: str, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    target = spawn(program, 20)
    wait_until_asleep(target.pid)
    cores = both(target.pid, tmp_path)
    assert_equal(Path(target.argv[0]), cores)
    # The frames' variables and the thread-local ones (libthread_db) too.
    words = ("--", "thread apply all bt full", "thread apply all print/x tls_canary")
    found = gdb_threads(target.argv[0], cores.stacks, *words)
    assert found == gdb_threads(target.argv[0], cores.full, *words)
    for thread in target.truth["threads"]:
        assert f" = {thread['tls']['value']}\n" in found[thread["tid"]]
    assert cores.stacks.stat().st_size < 640 << 10


def test_drgn_has_the_same_stacks(spawn: Callable[..., Target], tmp_path: Path) -> None:
    target = spawn("threads", 20)
    wait_until_asleep(target.pid)
    cores = both(target.pid, tmp_path)
    small = drgn(target.argv[0], cores.stacks)
    assert small == drgn(target.argv[0], cores.full)
    assert len(small["threads"]) == 21


def test_a_thread_on_another_stack_has_both(spawn: Callable[..., Target], tmp_path: Path) -> None:
    target = spawn("other_stacks")
    eventually(lambda: current_call.system_call(target.pid, target.pid) is not None)
    wait_until_asleep(target.pid)
    cores = both(target.pid, tmp_path)
    program = Path(target.argv[0])
    assert_equal(program, cores)
    stacks = gdb_threads(program, cores.stacks, "--", "thread apply all bt")
    threads = target.truth["threads"]
    for name in ("main", "alternate"):
        text = stacks[threads[name]]
        assert text.count(" deep (") == 100
        assert "on_signal (" in text
    assert stacks[threads["coroutine"]].count(" in_coroutine (") == 10


def test_a_stack_is_cut_where_the_policy_says_and_the_note_tells(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    target = spawn("other_stacks")
    wait_until_asleep(target.pid)
    threads = target.truth["threads"]
    cores = both(target.pid, tmp_path, Policy(memory="stacks", stack_limit=64))
    assert {threads["main"], threads["alternate"]} <= set(cores.facts["cut_stacks"])
    stacks = gdb_threads(target.argv[0], cores.stacks, "--", "thread apply all bt")
    # The innermost frames are those that are left.
    assert 10 < stacks[threads["alternate"]].count(" deep (") < 40
    assert stacks[threads["coroutine"]].count(" in_coroutine (") == 10
    assert cores.facts["policy"]["stack_limit"] == 64


@pytest.mark.parametrize("memory", ["stacks", "stacks+text"])
def test_stacks_of_a_library_that_was_deleted(
    memory: str, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    library = build_library(tmp_path / "library.so")
    target = spawn("libuser", library)
    wait_until_asleep(target.pid)
    library.unlink()
    cores = both(target.pid, tmp_path, Policy(memory=memory))
    program = Path(target.argv[0])
    assert eu_stack(program, cores.stacks) == eu_stack(program, cores.full)
    assert of_gdb(program, cores.stacks) == of_gdb(program, cores.full)


def test_python(start: Callable[..., Target], tmp_path: Path) -> None:
    script = (
        "import os, threading, time\n"
        "def f(n):\n"
        "    if n: f(n - 1)\n"
        "    else: time.sleep(1000)\n"
        "for _ in range(5): threading.Thread(target=f, args=(20,), daemon=True).start()\n"
        "print('{\"pid\": %d}' % os.getpid(), flush=True)\n"
        "f(3)\n"
    )
    target = start("/usr/bin/python3", "-c", script)
    wait_until_asleep(target.pid)
    cores = both(target.pid, tmp_path)
    assert_equal(Path(os.readlink(f"/proc/{target.pid}/exe")), cores)
    assert cores.stacks.stat().st_size < 2 << 20


def test_java_and_what_it_compiled(start: Callable[..., Target], tmp_path: Path) -> None:
    target = start("java", "-Xmx64m", TARGETS / "Monitors.java", 4)
    # gdb shows the string to which an argument points, if the core has it, and compilers have some.
    wait_until_asleep(target.pid)
    cores = both(target.pid, tmp_path)
    assert_equal(Path(os.readlink(f"/proc/{target.pid}/exe")), cores)
    assert cores.stacks.stat().st_size < 2 << 20


def test_goroutines_that_are_on_a_thread(start: Callable[..., Target], tmp_path: Path) -> None:
    settings = {"GO111MODULE": "off", "GOPROXY": "off", "GOFLAGS": "", "GOCACHE": str(tmp_path)}
    program = tmp_path / "goroutines"
    subprocess.run(
        ["go", "build", "-o", program, TARGETS / "goroutines.go"],
        env={**os.environ, **settings},
        check=True,
        timeout=100,
    )
    target = start(program, 5)
    wait_until_asleep(target.pid)  # a thread at work may be on a large stack of the runtime
    cores = both(target.pid, tmp_path)
    assert "cut_stacks" not in cores.facts
    assert_equal(program, cores)
    assert cores.stacks.stat().st_size < 1 << 20


def test_redis(start: Callable[..., Target], tmp_path: Path) -> None:
    server = shutil.which("redis-server")
    assert server is not None
    script = (
        "printf '{\"pid\": %d}\\n' $$; "
        'exec "$0" --port 0 --save "" --logfile /dev/null --unixsocket "$1" >/dev/null'
    )
    target = start("/bin/sh", "-c", script, server, tmp_path / "socket")
    eventually((tmp_path / "socket").exists)
    wait_until_asleep(target.pid)
    cores = both(target.pid, tmp_path)
    assert_equal(Path(server), cores)
    assert cores.stacks.stat().st_size < 1 << 20


def test_node(start: Callable[..., Target], tmp_path: Path) -> None:
    script = (
        "const { Worker } = require('worker_threads');"
        "const code = 'Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)';"
        "const worker = new Worker(code, { eval: true });"
        "worker.on('online', () => console.log(JSON.stringify({ pid: process.pid })));"
    )
    target = start("node", "-e", script)
    wait_until_asleep(target.pid)
    cores = both(target.pid, tmp_path)
    assert_equal(Path(os.readlink(f"/proc/{target.pid}/exe")), cores)
    assert cores.stacks.stat().st_size < 2 << 20


CLAIMS = """
import ctypes, os, signal
libc = ctypes.CDLL(None)
libc.getauxval.restype = ctypes.c_ulong
table, count = libc.getauxval(3), libc.getauxval(5)
page = table & -4096
assert libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(4096), 3) == 0
for at in range(table, table + 56 * count, 56):
    if ctypes.c_uint32.from_address(at).value == 2:  # PT_DYNAMIC
        ctypes.c_uint64.from_address(at + 40).value = 1 << 62  # p_memsz
print('{"pid": %d}' % os.getpid(), flush=True)
signal.pause()
"""


def test_a_program_that_claims_any_size_gets_no_more_than_others(
    start: Callable[..., Target], tmp_path: Path
) -> None:
    target = start("/usr/bin/python3", "-c", CLAIMS)
    wait_until_asleep(target.pid)
    cores = both(target.pid, tmp_path)
    assert cores.stacks.stat().st_size < 2 << 20


def test_no_debugger_takes_what_is_left_out_for_zeros_or_for_the_file(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """Each variable has the value that it had, or none."""
    target = spawn("variables")
    program = Path(target.argv[0])
    heap, anon = target.truth["heap"], target.truth["anon"]
    cores = both(target.pid, tmp_path)
    asked = ["p initialized[0]", "p untouched[0]", "p zeroed[0]", f"p *(int *) {heap}",
             f"p *(int *) {anon}"]  # fmt: skip
    assert values(program, cores.full, asked) == ["2", "5", "3", "4", "6"]
    small = values(program, cores.stacks, asked)
    assert small[:2] == ["2", "5"]
    assert set(small[2:]) == {None}
    shown = re.compile(r"^0x[0-9a-f]+: (\d+)$", re.MULTILINE)
    read = "memory read -s4 -fu -c1"
    # lldb ends at the first error.
    for asked, value in [("&initialized", 2), ("&zeroed", 3), (heap, 4), (anon, 6)]:
        assert shown.findall(lldb(program, cores.full, f"{read} {asked}")) == [str(value)]
    assert shown.findall(lldb(program, cores.stacks, f"{read} &initialized")) == ["2"]


def values(program: Path, core: Path, commands: Sequence[str]) -> list[str | None]:
    """What gdb prints for each; None if it cannot read the memory."""
    words = [word for command in commands for word in ("echo @\\n", command)]
    # gdb ends as its last command does.
    _, *pieces, _ = gdb(program, core, "--", *words, "echo @\\n").split("@\n")
    found = [re.search(r"^\$\d+ = (\d+)$", piece, re.MULTILINE) for piece in pieces]
    return [match[1] if match else None for match in found]
