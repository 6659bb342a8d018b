"""jhsdb on the core of a JVM: the stacks of its threads, the objects on its heap.

It needs the JDK on which the process ran, and finds its structures by the symbols in libjvm.so.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.kernel.proc import current_call, task_stat, tasks
from tests.conftest import TARGETS, Target
from tests.readers.debuggers import run

THREADS = 4
CANARY_BYTES = 24  # a header of 16 bytes (12 with compressed class pointers), and a long

_THREAD = re.compile(r'^"([^"]+)" #\d+ .*nid=(0x[0-9a-f]+|[0-9]+) ', re.MULTILINE)


@pytest.fixture
def program(start: Callable[..., Target]) -> Target:
    return start("java", "-Xmx64m", TARGETS / "Monitors.java", THREADS)


def jhsdb(program: Target, core: Path, *words: str) -> str:
    executable = os.readlink(f"/proc/{program.pid}/exe")
    out, _ = run("jhsdb", *words, "--exe", executable, "--core", core)
    return out


def test_jstack_shows_the_stack_of_every_thread(
    program: Target, core_file: Callable[[int], Path]
) -> None:
    out = jhsdb(program, core_file(program.pid), "jstack")
    assert "No deadlocks found." in out
    _, *pieces = _THREAD.split(out)
    names, numbers, texts = pieces[::3], pieces[1::3], pieces[2::3]
    stacks = dict(zip(names, texts, strict=True))
    tids = {name: int(number, 0) for name, number in zip(names, numbers, strict=True)}
    for name in program.truth["threads"]:
        # The JVM tells the kernel the names of its threads.
        assert task_stat.stat(program.pid, tids[name]).comm == name.encode()
        frames = re.findall(r"^ - Monitors\.(inner|middle|outer)\(", stacks[name], re.MULTILINE)
        assert frames == program.truth["functions"]
        waits, locked = re.findall(r"<(0x[0-9a-f]+)> \(a java\.lang\.Object\)", stacks[name])
        assert waits == locked
    assert " - Monitors.main(java.lang.String[]) " in stacks["main"]


def test_jstack_has_a_native_frame_of_every_thread(
    program: Target, core_file: Callable[[int], Path]
) -> None:
    # JDK 17 shows only one or two frames, also in the kernel's own core.
    out = jhsdb(program, core_file(program.pid), "jstack", "--mixed")
    _, *pieces = re.split(r"^-+ (\d+) -+$", out, flags=re.MULTILINE)
    stacks = {int(tid): text for tid, text in zip(pieces[::2], pieces[1::2], strict=True)}
    assert set(stacks) == set(tasks.tids(program.pid))
    names = {tid: task_stat.stat(program.pid, tid).comm.decode() for tid in stacks}
    for name in program.truth["threads"]:
        (text,) = (text for tid, text in stacks.items() if names[tid] == name)
        assert f'"{name}" #' in text
        first, *_ = re.findall(r"^(0x[0-9a-f]+)\t", text, re.MULTILINE)
        (tid,) = (tid for tid in stacks if names[tid] == name)
        call = current_call.system_call(program.pid, tid)
        assert call is not None
        *_, program_counter = call
        assert int(first, 16) == program_counter


def test_jmap_counts_the_objects_on_the_heap(
    program: Target, core_file: Callable[[int], Path]
) -> None:
    out = jhsdb(program, core_file(program.pid), "jmap", "--histo")
    (row,) = (line.split() for line in out.splitlines() if line.endswith("\tMonitors$Canary"))
    count = program.truth["canaries"]
    assert row[1:3] == [str(count), str(count * CANARY_BYTES)]
