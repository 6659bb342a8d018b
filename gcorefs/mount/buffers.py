"""Buffers that replies are made in, used again and again.

A fresh megabyte for each read costs as much as filling it: the kernel has to find and clear
256 pages first.  A buffer comes back by itself when the last reference to the view that was
lent is gone: after the reply, or when a read that was given up has really ended.
"""

import mmap
import weakref

BUFFER_SIZE = 1 << 20
"""Bytes; the most that FUSE asks for in one request."""

_MOST_KEPT = 32


class Buffers:
    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def lend(self, length: int) -> memoryview:
        """`length` writable bytes on page borders, with whatever was in them before."""
        if length > BUFFER_SIZE:
            return memoryview(mmap.mmap(-1, length))
        store = self._free.pop() if self._free else mmap.mmap(-1, BUFFER_SIZE)
        view = memoryview(store)[:length]
        weakref.finalize(view, self._take_back, store).atexit = False
        return view

    def _take_back(self, store: mmap.mmap) -> None:
        if len(self._free) < _MOST_KEPT:
            self._free.append(store)
