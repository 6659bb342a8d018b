"""Memory that replies are made in, used again and again.

A fresh megabyte for each read costs as much as filling it: the kernel has to find and clear
256 pages first.
"""

import contextlib
import mmap
from collections import defaultdict

LARGEST_REQUEST = 1 << 20
"""Bytes; the most that FUSE carries in one request."""

_HUGE_PAGE = 2 << 20

_MOST_KEPT = 32 << 20
"""Bytes that wait to be used again."""


class Buffers:
    """On page borders, with whatever was in them before.

    One that is not given back is no loss but its own: it goes when nobody refers to it.
    """

    def __init__(self) -> None:
        self.desk = memoryview(mmap.mmap(-1, LARGEST_REQUEST))
        """For the reply that is made just now: it is gone when the event loop turns again."""
        self._free: defaultdict[int, list[mmap.mmap]] = defaultdict(list)
        self._kept = 0

    def take(self, size: int) -> mmap.mmap:
        free = self._free[size]
        if free:
            self._kept -= size
            return free.pop()
        return fresh(size)

    def give_back(self, store: mmap.mmap) -> None:
        """Nobody writes into it any more."""
        if self._kept + len(store) <= _MOST_KEPT:
            self._kept += len(store)
            self._free[len(store)].append(store)


def fresh(size: int) -> mmap.mmap:
    """So many bytes on page borders, zeros."""
    store = mmap.mmap(-1, size)
    if size >= _HUGE_PAGE:
        # A seventh faster to fill and to send, where the kernel has any to spare.
        with contextlib.suppress(OSError):  # EINVAL: it was built without
            store.madvise(mmap.MADV_HUGEPAGE)
    return store
