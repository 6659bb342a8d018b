"""Processes with very many threads: each is in the notes once, as it was, and runs on."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Mount, Target
from tests.mounted.conftest import eventually, is_free, opened, whole
from tests.readers.corefile import Core
from tests.readers.debuggers import gdb, run

SYS_FUTEX = 202
STACK_SIZE = 64 * 1024  # threads.c
GDB_AT_MOST = 2_000  # gdb 13 takes minutes for ten times as many
COUNTS = [2_000, pytest.param(20_000, marks=[pytest.mark.full, pytest.mark.timeout(400)])]


@pytest.fixture(params=COUNTS)
def target(
    request: pytest.FixtureRequest,
    spawn: Callable[..., Target],
    sysctl: Callable[[str, int], None],
) -> Target:
    if request.param > 10_000:
        sysctl("kernel/pid_max", 100_000)
        sysctl("kernel/threads-max", 100_000)
    return spawn("threads", request.param)


def test_every_thread_is_in_the_core_once(target: Target, mount: Mount, tmp_path: Path) -> None:
    core = tmp_path / "core"
    threads = {thread["tid"]: thread for thread in target.truth["threads"]}
    with opened(mount / target.pid):
        subprocess.run(["cp", mount / target.pid, core], check=True, timeout=100)
        assert_gdb_lists(mount / target.pid, target)
    assert target.ask("wake") == {"woken": len(threads)}
    assert_threads_are_as_they_were(Core(core), target)
    out, err = run("eu-readelf", "-n", core)
    assert err == ""
    tids = [int(tid) for tid in re.findall(r"PRSTATUS\n(?:.*\n){3} +pid: (\d+),", out)]
    assert tids == [target.pid, *sorted(threads)]
    assert_gdb_lists(core, target)


def assert_threads_are_as_they_were(core: Core, target: Target) -> None:
    """Each sleeps in futex(2), at the bottom of its own stack, which has its own values."""
    threads = {thread["tid"]: thread for thread in target.truth["threads"]}
    count = sum(note.kind == "NT_PRSTATUS" for note in core.notes)
    found = core.threads
    assert len(found) == count == len(threads) + 1
    assert [*found] == [target.pid, *sorted(threads)]
    for tid, thread in threads.items():
        status = found[tid].status
        assert (status["orig_rax"], status["fpvalid"]) == (SYS_FUTEX, 1)
        assert status["fs_base"] == int(thread["pthread_self"], 16)
        innermost = int(thread["canaries"]["inner"]["address"], 16)
        assert 0 < innermost - status["rsp"] < STACK_SIZE
    for thread in target.truth["threads"][:: len(threads) // 50]:
        for word in (*thread["canaries"].values(), thread["tls"]):
            address = int(word["address"], 16)
            assert int.from_bytes(core.read(address, address + 8), "little") == int(
                word["value"], 16
            )


def assert_gdb_lists(core: Path, target: Target) -> None:
    if len(target.truth["threads"]) > GDB_AT_MOST:
        return
    text = gdb(target.argv[0], core, "--", "info threads", "thread apply 1000 bt")
    listed = [int(tid) for tid in re.findall(r"^[* ] +\d+ +.*?LWP (\d+)\)", text, re.MULTILINE)]
    tids = [target.pid, *(thread["tid"] for thread in target.truth["threads"])]
    assert sorted(listed) == sorted(tids)
    stack = re.findall(r"^#\d+ .*?\b(inner|middle|outer|thread_main) \(", text, re.MULTILINE)
    assert stack[-4:] == target.truth["functions"]


def test_no_part_of_a_header_is_lost(mount: Mount, spawn: Callable[..., Target]) -> None:
    """The rest of it may be made before the task that waits for its beginning has its turn.  Then
    the reader waited for ten seconds, and the process stood still: once in 70 opens."""
    target = spawn("threads", 100)
    for number in range(150):
        with opened(mount.path / f"@memory=none,stack_limit={number + 1}" / str(target.pid)) as fd:
            assert len(whole(fd)) == os.fstat(fd).st_size
        eventually(lambda: is_free(target.pid))
