"""Where the bytes of a copy are kept: in memory (copy.py), or in a file (spool.py)."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from gcorefs.process.ranges import Ranges

Read: TypeAlias = Callable[[Ranges, memoryview], None]
"""Reads ranges of memory, each to its place in a buffer.  MayWait: `done` is the place of a page,
and all ranges before it are read."""


class Place(NamedTuple):
    """Where bytes of a copy are."""

    file: int | None
    """The file descriptor of the file that has them.  None: no file has them, or they are zeros."""
    offset: int
    """In that file."""
    length: int


class Store(Protocol):
    """The bytes of one copy, each at a place from 0 on.  What was never taken is zeros.

    Everything may raise NotCopied.
    """

    def prepare(self, size: int) -> None:
        """Make room for about `size` bytes, while that holds up nobody."""

    def fit(self, size: int) -> None:
        """Resize the room to `size` bytes, rounded up to pages.  NotCopied: the room stays."""

    def fit_at_least(self, size: int) -> None:
        """Make the room larger if it is smaller than `size` bytes."""

    def hurry(self, size: int) -> None:
        """A process stands still until the next `size` bytes are taken, so no disk should be waited
        for."""

    def take(self, ranges: Ranges, read: Read) -> None:
        """Have `read` bring some ranges to their places.  Several threads may call this.

        MayWait: `done` counts bytes of the ranges, in their order; those are taken.
        """

    def view(self, offset: int, length: int) -> memoryview | None:
        """A part of the copy, if it is in memory.  The view keeps the copy from being freed."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`.  EIO: the disk failed."""

    def place(self, offset: int, length: int) -> Place:
        """Where the bytes at `offset` are: as many of them as lie together."""

    def settle(self) -> None:
        """All has been taken: the room that is not in use by now will not be."""

    def discard(self) -> None:
        """Free the room at once.  Nobody uses what a thread still takes into it."""
