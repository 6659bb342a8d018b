"""The memory for replies, used again and again.

New memory for each read would cost as much as filling it: for a megabyte the kernel must find and
clear 256 pages first.
"""

import contextlib
import mmap
from collections import defaultdict

from gcorefs.arch.page import HUGE_PAGE_SIZE

LARGEST_REQUEST = 1 << 20
"""The most bytes of one FUSE request."""

_MOST_KEPT = 32 << 20
"""Bytes that are kept for reuse."""


class Buffers:
    """Page-aligned buffers; they still have their old content.

    A buffer that is not given back is not lost: it is freed when nobody refers to it.
    """

    def __init__(self) -> None:
        self.desk = memoryview(mmap.mmap(-1, LARGEST_REQUEST))
        """For the reply that is being made now.  Its content is lost when the event loop turns."""
        self._free: defaultdict[int, list[mmap.mmap]] = defaultdict(list)
        self._kept = 0

    def take(self, size: int) -> mmap.mmap:
        free = self._free[size]
        if free:
            self._kept -= size
            return free.pop()
        return fresh(size)

    def give_back(self, store: mmap.mmap) -> None:
        """Take back a buffer into which nobody writes any more."""
        if self._kept + len(store) <= _MOST_KEPT:
            self._kept += len(store)
            self._free[len(store)].append(store)

    def free(self) -> None:
        """Give the kernel what is kept for reuse."""
        self._free.clear()
        self._kept = 0


def fresh(size: int) -> mmap.mmap:
    """`size` bytes of zeros, page-aligned."""
    store = mmap.mmap(-1, size)
    if size >= HUGE_PAGE_SIZE:
        # With huge pages it is a seventh faster to fill and to send.
        with contextlib.suppress(OSError):  # EINVAL: the kernel is built without them
            store.madvise(mmap.MADV_HUGEPAGE)
    return store
