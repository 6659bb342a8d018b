"""Walks the page tables of a long range on all cores.

100 GiB of reserved memory with 50,000 populated pages have 200 MiB of page tables.  The kernel
reads all of them, 512 entries for each page that it finds, and needs 50 ms for that: the process
stands still for as long.  A walk only reads the page tables, so there may be several at the same
time (fs/proc/task_mmu.c, do_pagemap_scan: mmap_read_lock).
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from gcorefs.elfcore.elf import page_up
from gcorefs.kernel.pagemap_scan import join_runs
from gcorefs.process.runs import Runs, nothing, size_of
from gcorefs.process.threads import NoThread, start_thread

Walk = Callable[[int, int], Runs | None]
"""Finds the runs between two addresses.  None if this kernel does not tell.  OSError."""

_LONG = 1 << 32
"""Bytes.  To walk a shorter range takes 10 ms at the most."""
_PIECES = 32
_MOST_THREADS = 4


def by_all_cores(walk: Walk, ranges: Runs) -> Runs | None:
    """The result of one walk from the first to the last address of some ranges, by several threads
    if they are long.  The ranges are in ascending order; little is mapped between them."""
    first, last = ranges[0][0], ranges[1][-1]
    if last - first < _LONG or (size := size_of(ranges)) < _LONG:
        return walk(first, last)
    pieces = _Pieces(walk, [*_borders(ranges, page_up(size // _PIECES))])
    helpers = []
    try:
        with contextlib.suppress(NoThread):
            for _ in range(min(os.cpu_count() or 1, _MOST_THREADS) - 1):
                helpers.append(start_thread("gcorefs-pagemap", pieces.help))
        pieces.walk()
    finally:
        pieces.stop()
        for helper in helpers:
            helper.join()
    return pieces.joined()


def _borders(ranges: Runs, step: int) -> Iterator[int]:
    """Addresses that divide the ranges into pieces of `step` bytes, and the first and the last."""
    yield ranges[0][0]
    left = step
    for start, end in zip(*ranges, strict=True):
        yield from range(start + left, end, step)
        left = (left - (end - start)) % step
    yield ranges[1][-1]


class _Pieces:
    """The parts of one walk, between ascending addresses.  Each is walked by one thread."""

    def __init__(self, walk: Walk, borders: Sequence[int]) -> None:
        self._walk = walk
        self._ranges = [*pairwise(borders)]
        self._found: list[Runs | None] = [None] * len(self._ranges)
        self._left = deque(range(len(self._ranges)))

    def walk(self) -> None:
        """Walk what no other thread walks."""
        with contextlib.suppress(IndexError):  # nothing is left
            while True:
                index = self._left.popleft()
                self._found[index] = self._walk(*self._ranges[index])

    def help(self) -> None:
        """The same, in a thread that nobody asks for its error: `joined` meets it again."""
        with contextlib.suppress(OSError):
            self.walk()

    def stop(self) -> None:
        """Let no thread begin another piece."""
        self._left.clear()

    def joined(self) -> Runs | None:
        """The runs of the whole range.  Nobody walks any more."""
        starts, ends = nothing()
        for piece, found in zip(self._ranges, self._found, strict=True):
            runs = self._walk(*piece) if found is None else found
            if runs is None:
                return None
            join_runs(starts, ends, *runs)
        return starts, ends
