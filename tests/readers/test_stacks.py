"""Backtraces, local variables and thread-local storage, as debuggers read them from the core and
gdb reads them from the process itself."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Mount, Target, wait_until_asleep
from tests.readers.debuggers import eu_stack, gdb_threads, lldb, lldb_threads

BOTH = pytest.mark.parametrize("program", ["threads", "threads32"])

EVERYTHING = "thread apply all bt full"
TLS = "thread apply all print/x tls_canary"


def tids(target: Target) -> set[int]:
    return {target.pid, *(thread["tid"] for thread in target.truth["threads"])}


def assert_frames_in_order(text: str, target: Target) -> None:
    """inner, middle, outer and thread_main, each called by the next."""
    names = "|".join(target.truth["functions"])
    # Without lldb's inlined frames, which repeat the name of their function.
    found = [
        match[1]
        for line in text.splitlines()
        if "[inlined]" not in line and (match := re.search(rf"(?<!\w)({names})\b", line))
    ]
    assert found == target.truth["functions"]


def assert_locals(found: dict[int, str], target: Target) -> None:
    for thread in target.truth["threads"]:
        for function, canary in thread["canaries"].items():
            value = int(canary["value"], 16)
            assert f"        {function}_canary = {value}\n" in found[thread["tid"]]


@BOTH
def test_gdb_sees_the_same_stacks_in_the_core_as_in_the_process(
    program: str, spawn: Callable[..., Target], dump: Callable[[int], Path]
) -> None:
    target = spawn(program, 20)
    wait_until_asleep(target.pid)
    core = dump(target.pid)
    of_core = gdb_threads(target.argv[0], core, "--", EVERYTHING)
    # The threads sleep in a call that the dump made them start again, and gdb does the same.
    of_process = gdb_threads("-p", target.pid, "--", EVERYTHING)
    assert set(of_core) == tids(target)
    assert of_core == of_process
    assert_locals(of_core, target)


@BOTH
def test_gdb_sees_stacks_and_thread_local_storage_straight_from_the_mount(
    program: str, spawn: Callable[..., Target], mount: Mount
) -> None:
    target = spawn(program, 20)
    found = gdb_threads(target.argv[0], mount / target.pid, "--", EVERYTHING, TLS)
    assert set(found) == tids(target)
    assert_locals(found, target)
    assert_thread_local_storage(found, target)


@BOTH
def test_gdb_finds_thread_local_storage_in_the_core(
    program: str, spawn: Callable[..., Target], dump: Callable[[int], Path]
) -> None:
    target = spawn(program, 20)
    found = gdb_threads(target.argv[0], dump(target.pid), "--", TLS)
    assert_thread_local_storage(found, target)


def assert_thread_local_storage(found: dict[int, str], target: Target) -> None:
    for thread in target.truth["threads"]:
        # libthread_db finds the variable through the thread's own memory.
        assert f" = {thread['tls']['value']}\n" in found[thread["tid"]]


@BOTH
def test_eu_stack_lists_the_frames_of_every_thread(
    program: str, spawn: Callable[..., Target], core_file: Callable[[int], Path]
) -> None:
    target = spawn(program, 20)
    found = eu_stack(Path(target.argv[0]), core_file(target.pid))
    assert set(found) == tids(target)
    for thread in target.truth["threads"]:
        assert_frames_in_order(found[thread["tid"]], target)


def test_lldb_lists_the_frames_of_every_thread(
    spawn: Callable[..., Target], core_file: Callable[[int], Path]
) -> None:
    target = spawn("threads", 20)
    found = lldb_threads(Path(target.argv[0]), core_file(target.pid), 21, "bt")
    assert set(found) == tids(target)
    for thread in target.truth["threads"]:
        assert_frames_in_order(found[thread["tid"]], target)


def test_lldb_lists_the_frames_of_a_32_bit_program(
    spawn: Callable[..., Target], core_file: Callable[[int], Path]
) -> None:
    # For the main thread only: lldb 14 cannot unwind from i386's [vdso] if a program calls by
    # syscall(3), which needs the frame pointer.  The kernel's core has the same result.
    target = spawn("threads32", 20)
    wait_until_asleep(target.pid)
    found = lldb_threads(Path(target.argv[0]), core_file(target.pid), 21, "bt")
    assert set(found) == tids(target)
    frames = re.findall(r"frame #.*`(\w+)", found[target.pid])
    assert frames.index("_IO_fgets") < frames.index("main") < frames.index("_start")


def test_lldb_reads_what_the_threads_wrote(
    spawn: Callable[..., Target], core_file: Callable[[int], Path]
) -> None:
    target = spawn("threads", 5)
    expected = {
        int(canary["address"], 16): int(canary["value"], 16)
        for thread in target.truth["threads"]
        for canary in (*thread["canaries"].values(), thread["tls"], thread["counter"])
    }
    commands = [f"memory read --format x --size 8 --count 1 {at:#x}" for at in expected]
    out = lldb(Path(target.argv[0]), core_file(target.pid), *commands)
    rows = re.findall(r"^(0x\w+): (0x\w+)$", out, re.MULTILINE)
    assert {int(address, 16): int(value, 16) for address, value in rows} == expected
