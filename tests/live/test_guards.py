"""Guard pages are known, are zeros in the core, and are no loss: the program cannot read them."""

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gcorefs.process.guards import Guards, guarded
from gcorefs.process.pagemap import Pagemap, is_guard, scans_guards
from gcorefs.process.runs import runs_of
from tests.conftest import Target
from tests.features import needs_guards, needs_guards_in_pagemap_scan
from tests.live.programs import start_whole, taken
from tests.snapshot import Snapshot, find

PAGE = 4096
MADV_GUARD_INSTALL = 102
BIT = 1 << 58
"""Of a guard in an entry of pagemap, since Linux 6.15."""
GUARDS = {"kinds": {"guard_alone", "guard_in_file"}, "memory": {"guard"}}
PIECE = 1 << 20

Start = Callable[[str], Target]


@pytest.fixture
def start(
    request: pytest.FixtureRequest, spawn: Callable[..., Target], tmp_path: Path
) -> Iterator[Start]:
    """A program that installs guards."""
    needs_guards()

    yield lambda program: start_whole(program, request, spawn, tmp_path)


def expected(target: Target, program: str) -> list[tuple[int, int]]:
    regions: dict[str, dict[str, Any]] = {each["name"]: each for each in target.truth["regions"]}
    found = [regions[name] for name in GUARDS[program] & regions.keys()]
    return sorted((int(region["start"], 16), int(region["end"], 16)) for region in found)


@pytest.mark.parametrize("guards", [Guards.ANYWHERE, None], ids=["anywhere", "as-here"])
@pytest.mark.parametrize("program", sorted(GUARDS))
def test_guards_are_known_before(start: Start, program: str, guards: Guards | None) -> None:
    needs_guards_in_pagemap_scan()
    target = start(program)
    wanted = expected(target, program)
    assert wanted
    assert guarded(taken(target), Pagemap(target.pid), guards) == wanted


def test_a_guard_is_a_hole(start: Start) -> None:
    """So the guards of ten thousand stacks take no room in the file."""
    needs_guards_in_pagemap_scan()
    target = start("memory")
    ((first, last),) = expected(target, "memory")
    runs = Pagemap(target.pid).runs(runs_of([(first - PAGE, last + PAGE)]))
    assert [*zip(*runs, strict=True)] == [(first - PAGE, first), (last, last + PAGE)]


@pytest.mark.parametrize("program", sorted(GUARDS))
def test_a_guard_is_zeros_and_no_loss(start: Start, program: str) -> None:
    target = start(program)
    wanted = expected(target, program)
    with closing(Snapshot(find(target.pid))) as snapshot:
        snapshot.take()
        for offset in range(0, snapshot.size, PIECE):
            snapshot.read(offset, PIECE)
        lost = snapshot.unreadable_ranges
        for first, last in wanted:
            assert not any(first < end and begin < last for begin, end in lost)
            assert snapshot.memory.read_bytes(first, last - first) == bytes(last - first)
            assert first in snapshot.memory.unreadable_pages
        if scans_guards():
            size = sum(last - first for first, last in wanted)
            assert snapshot.core.provenance.account.guards == size


def test_a_guard_is_known_by_its_entry() -> None:
    """By the bit of Linux 6.15, and by the marker, which root sees before."""
    needs_guards()
    pagemap = Pagemap(os.getpid())
    with mmap.mmap(-1, 3 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = bytes(3 * PAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        memory.madvise(MADV_GUARD_INSTALL, PAGE, PAGE)
        found = [pagemap.is_guard(address + number * PAGE) for number in range(3)]
        assert found == [False, True, False]
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            data = os.pread(file.fileno(), 8, (address + PAGE) // PAGE * 8)
        assert is_guard(int.from_bytes(data, "little") & ~BIT)


def test_other_entries_are_no_guards() -> None:
    swapped_out, marker, poison = 1 << 62, 31, 1 << (5 + 1)
    for entry in (0, 1 << 63, swapped_out | 1 << 7, swapped_out | marker | poison, marker | 1 << 7):
        assert not is_guard(entry)
