"""Pages that a process gave back with MADV_FREE: the kernel takes them when it wants memory, also
while the process stands still.  Each is then what it was, or zeros."""

import contextlib
import ctypes
import os
import struct
from collections.abc import Callable, Iterator

import pytest

from gcorefs.hold.room import Room
from tests.conftest import Target
from tests.snapshot import Snapshot, find

PAGE = 4096
CHUNK = 2 << 20
GIVEN_BACK = [40, 42, 43, 44]
"""The pages of chunk 2 that tests/targets/writer.c gives back and does not write again."""
MADV_PAGEOUT = 21  # linux/mman.h
TRIES = 100

_libc = ctypes.CDLL(None, use_errno=True)


class IoVec(ctypes.Structure):
    """sys/uio.h"""

    _fields_ = (("base", ctypes.c_size_t), ("length", ctypes.c_size_t))


def reclaim(pid: int, start: int, length: int) -> None:
    """Have the kernel look for memory in this part of a process (process_madvise(2))."""
    part = IoVec(start, length)
    pidfd = os.pidfd_open(pid)
    try:
        done = _libc.process_madvise(pidfd, ctypes.byref(part), 1, MADV_PAGEOUT, 0)
        assert done == length, os.strerror(ctypes.get_errno())
    finally:
        os.close(pidfd)


def are_taken(pid: int, starts: list[int]) -> bool:
    """True if the process has none of these pages any more, not even in swap (proc_pid_pagemap(5)).
    The kernel passes by a page that somebody else happens to use."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        entries = [os.pread(pagemap.fileno(), 8, start // PAGE * 8) for start in starts]
    return not any(struct.unpack("=Q", entry)[0] >> 62 for entry in entries)


@contextlib.contextmanager
def on_one_processor(pid: int) -> Iterator[None]:
    """Each processor has a list of pages that were given back there a moment ago.  The kernel takes
    none of them before it has looked through that list, and looks through its own alone (mm/swap.c,
    lru_add_drain)."""
    ours = os.sched_getaffinity(0)
    one = {min(ours)}
    os.sched_setaffinity(pid, one)
    os.sched_setaffinity(0, one)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


@pytest.mark.parametrize("room", [None, Room(1 << 30)], ids=["held", "copied"])
def test_a_page_that_the_kernel_may_take_is_what_it_was_or_zeros(
    spawn: Callable[..., Target], room: Room | None
) -> None:
    target = spawn("writer", 8)
    chunk = int(target.truth["arena"], 16) + 2 * CHUNK
    snapshot = Snapshot(find(target.pid), room=room)
    try:
        with on_one_processor(target.pid):
            assert target.ask("free") == {"did": "free"}
            snapshot.take()
            before = snapshot.read(0, snapshot.size)
            # Two pages of these were written since.  They stay, or go to swap.
            for _ in range(TRIES):
                reclaim(target.pid, chunk + 40 * PAGE, 6 * PAGE)
                if are_taken(target.pid, [chunk + page * PAGE for page in GIVEN_BACK]):
                    break
        snapshot.copy()
        after = snapshot.read(0, snapshot.size)
    finally:
        snapshot.close()
    (part,) = [
        extent
        for extent in snapshot.layout.extents(0, snapshot.size)
        if extent.at <= chunk < extent.at + extent.length
    ]
    for page in GIVEN_BACK:
        place = part.offset + chunk + page * PAGE - part.at
        assert before[place : place + PAGE] != bytes(PAGE)
        assert after[place : place + PAGE] == bytes(PAGE)
        before = before[:place] + bytes(PAGE) + before[place + PAGE :]
    assert before == after
