"""A core is one instant: a second read gives the same bytes, and facts that busy threads keep true
together are true in it.
"""

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gcorefs.kernel import process_vm, ptrace, wait4
from gcorefs.kernel.proc import tasks
from tests.conftest import Mount, Target
from tests.mounted.conftest import eventually, gcorefs, opened, run, whole
from tests.readers.corefile import Core

Spawn = Callable[..., Target]

WRITERS = 4
FULL = (pytest.mark.full, pytest.mark.timeout(600))
MEBIBYTES = pytest.mark.parametrize("mebibytes", [64, pytest.param(512, marks=FULL)])

# Not aligned; larger and smaller than the windows of reading ahead.
CHUNKINGS = ((1, 4095, 4097), (65521,), (999_983, 7), (5_000_011,))


def in_chunks(fd: int, lengths: tuple[int, ...]) -> bytes:
    pieces, offset, turn = [], 0, 0
    while piece := os.pread(fd, lengths[turn % len(lengths)], offset):
        pieces.append(piece)
        offset, turn = offset + len(piece), turn + 1
    return b"".join(pieces)


def test_two_reads_under_one_stop_are_equal(spawn: Spawn, mount: Mount) -> None:
    target = spawn("sums", 8, WRITERS)
    with opened(mount / target.pid) as first, opened(mount / target.pid) as second:
        expected = whole(first)
        assert len(expected) == os.fstat(first).st_size
        assert whole(first) == expected
        assert whole(second) == expected
        for number, lengths in enumerate(CHUNKINGS):
            assert in_chunks((first, second)[number % 2], lengths) == expected


def test_a_handle_that_reads_backwards_sees_what_one_that_reads_on_sees(
    spawn: Spawn, mount: Mount
) -> None:
    target = spawn("sums", 8, WRITERS)
    length = 65521
    with opened(mount / target.pid) as first, opened(mount / target.pid) as second:
        offsets = range(0, os.fstat(first).st_size, length)
        pairs = [
            (os.pread(first, length, forth), os.pread(second, length, back))
            for forth, back in zip(offsets, reversed(offsets), strict=True)
        ]
    forwards, backwards = zip(*pairs, strict=True)
    assert b"".join(forwards) == b"".join(reversed(backwards))


@MEBIBYTES
def test_cmp_finds_nothing_between_two_copies_under_one_stop(
    spawn: Spawn, mount: Mount, tmp_path: Path, mebibytes: int
) -> None:
    target = spawn("sums", mebibytes, WRITERS)
    copies = tmp_path / "first", tmp_path / "second"
    with opened(mount / target.pid):
        for copy in copies:
            assert run("cp", mount / target.pid, copy).returncode == 0
        size = (mount / target.pid).stat().st_size
    assert [copy.stat().st_size for copy in copies] == [size, size]
    assert size > mebibytes << 20
    compared = run("cmp", *copies)
    assert (compared.returncode, compared.stdout) == (0, b"")


def test_copies_of_two_stops_differ(spawn: Spawn, mount: Mount, tmp_path: Path) -> None:
    """This shows that the process wrote all the time; else the tests above would mean nothing."""
    target = spawn("sums", 8, WRITERS)
    copies = tmp_path / "first", tmp_path / "second"
    for copy in copies:
        assert run("cp", mount / target.pid, copy).returncode == 0
    assert run("cmp", "--silent", *copies).returncode == 1


@dataclass
class Writer:
    seq: int
    index: int
    before: int
    after: int
    sum: int


def torn(memory: bytes, target: Target) -> list[str]:
    """The parts of the memory of a sums process that were never true together (targets/sums.c)."""
    truth = target.truth
    writers = [
        Writer(*struct.unpack_from("<5Q", memory, truth["stride"] * number))
        for number in range(WRITERS)
    ]
    count = truth["slots"] * WRITERS
    words = memoryview(memory)[truth["words"] : truth["words"] + 8 * count].cast("Q")
    (clock,) = struct.unpack_from("<Q", memory, truth["clock"])
    found = []
    for number, writer in enumerate(writers):
        total = sum(words[number::WRITERS])
        allowed = {writer.sum}
        if writer.seq % 2:
            word = words[writer.index]
            if word not in (writer.before, writer.after):
                found.append(f"word {writer.index} is {word:#x}")
            if word == writer.after:
                allowed.add(writer.sum + writer.after - writer.before)
        if total not in allowed:
            found.append(f"the words of writer {number} add up to {total}, not to {writer.sum}")
    finished = sum(writer.seq // 2 for writer in writers)
    begun = sum((writer.seq + 1) // 2 for writer in writers)
    if not finished <= clock <= begun:
        found.append(f"{finished} changes are done and {begun} begun, the clock says {clock}")
    # A page in the place of another one.  Not every word is checked, to save time.
    found += [f"word {i} is {words[i]:#x}" for i in range(0, count, 511) if words[i] % 2**32 != i]
    return found


def seen(path: Path, target: Target) -> list[str]:
    start = int(target.truth["area"], 16)
    return torn(Core(path).read(start, start + target.truth["size"]), target)


@MEBIBYTES
def test_what_threads_keep_true_is_true_in_a_copy(
    spawn: Spawn, mount: Mount, tmp_path: Path, mebibytes: int
) -> None:
    target = spawn("sums", mebibytes, WRITERS)
    for _ in range(3):
        assert run("cp", mount / target.pid, tmp_path / "core").returncode == 0
        assert seen(tmp_path / "core", target) == []


@MEBIBYTES
def test_what_threads_keep_true_is_true_in_a_dump(
    spawn: Spawn, tmp_path: Path, mebibytes: int
) -> None:
    target = spawn("sums", mebibytes, WRITERS)
    for _ in range(3):
        assert gcorefs("dump", target.pid, "-o", tmp_path / "core").returncode == 0
        assert seen(tmp_path / "core", target) == []
        (tmp_path / "core").unlink()


@contextlib.contextmanager
def stopped(tids: list[int]) -> Iterator[None]:
    """These threads stand still, and no other thread of the process."""
    try:
        for tid in tids:
            ptrace.seize(tid)
            ptrace.interrupt(tid)
        for tid in tids:
            while wait4.poll_status(tid) is None:
                pass
        yield
    finally:
        for tid in tids:
            ptrace.detach(tid)


@pytest.mark.parametrize("running", [WRITERS, 1])
def test_if_a_thread_runs_on_the_core_is_not_true(spawn: Spawn, running: int) -> None:
    """The tests above would find this if not every thread were stopped."""
    target = spawn("sums", 64, WRITERS)
    start, size = int(target.truth["area"], 16), target.truth["size"]
    assert set(target.truth["tids"]) == set(tasks.tids(target.pid)) - {target.pid}

    def read() -> bytes:
        memory = bytearray(size)
        assert process_vm.read_memory(target.pid, start, memoryview(memory)) == size
        return bytes(memory)

    with stopped(target.truth["tids"][running:]):
        # Not at once, if other processes have the processors.
        eventually(lambda: torn(read(), target) != [])
    with stopped(target.truth["tids"]):
        assert torn(read(), target) == []
