"""Buffers that replies are made in, used again and again.

A fresh megabyte for each read costs as much as filling it: the kernel has to find and clear
256 pages first.  A buffer comes back by itself when the last reference to the view that was
lent is gone: after the reply, or when a read that was given up has really ended.
"""

import mmap
import weakref

LARGEST_REQUEST = 1 << 20
"""Bytes; the most that FUSE carries in one request, and the smallest buffer."""

_MOST_KEPT = 32 << 20
"""Bytes that wait to be used again."""


class Buffers:
    def __init__(self) -> None:
        self._free: dict[int, list[mmap.mmap]] = {}

    def lend(self, length: int) -> memoryview:
        """`length` writable bytes on page borders, with whatever was in them before."""
        size = max(LARGEST_REQUEST, 1 << (length - 1).bit_length())
        free = self._free.setdefault(size, [])
        store = free.pop() if free else mmap.mmap(-1, size)
        view = memoryview(store)[:length]
        weakref.finalize(view, self._take_back, store).atexit = False
        return view

    def part(self, view: memoryview, start: int, end: int) -> memoryview:
        """Some of a view that was lent, which is not taken back before this is gone too."""
        piece = view[start:end]
        # A slice refers to the memory, not to the view that it was taken from.
        weakref.finalize(piece, _let_go, view).atexit = False
        return piece

    def _take_back(self, store: mmap.mmap) -> None:
        # In whichever thread dropped the last reference.
        kept = sum(size * len(free) for size, free in tuple(self._free.items()))
        if kept + len(store) <= _MOST_KEPT:
            self._free[len(store)].append(store)


def _let_go(view: memoryview) -> None:
    """Nothing: that `view` was kept until now is all that was wanted."""
