"""Pages that could not be read and are zeros in the core.

They are kept as ranges: a file that was truncated under its mapping has millions in a row.
"""

import threading
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from gcorefs.arch.page import PAGE_SIZE

_MOST_RANGES = 100_000


class UnreadablePages:
    """The pages that could not be read: those with content, which is lost, and guards."""

    def __init__(self, no_loss: Sequence[range] = ()) -> None:
        """`no_loss`: the places of [vvar], [vsyscall] and similar mappings, which nobody can read
        from outside.  Zeros there are no loss, and the kernel's cores have them too."""
        self.no_loss = no_loss
        self._lost = _Pages()
        self._guards = _Pages()

    def __contains__(self, address: int) -> bool:
        """True if the page in which `address` lies was added."""
        return address in self._lost or address in self._guards

    @property
    def count(self) -> int:
        """The number of pages that are lost."""
        return self._lost.count

    def ranges(self) -> list[tuple[int, int]]:
        """Start and end of each range that is lost, in order."""
        return self._lost.ranges()

    def add(self, address: int) -> None:
        """Add the page in which `address` lies."""
        page = address - address % PAGE_SIZE
        if not any(page in own for own in self.no_loss):
            self._lost.add(page)

    def add_ranges(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Add ranges of whole pages (start, end), in any order."""
        self._lost.add_ranges(ranges)

    def add_guard(self, address: int) -> None:
        """Add the guard page in which `address` lies (guards.py).  It is no loss."""
        self._guards.add(address - address % PAGE_SIZE)


class _Pages:
    """Counts each page once, however often it is added."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __contains__(self, address: int) -> bool:
        with self._lock:
            after = bisect_right(self._starts, address)
            return bool(after) and address < self._ends[after - 1]

    def add(self, page: int) -> None:
        """Add the page at this address."""
        with self._lock:
            self._add(page)

    def add_ranges(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Add ranges of whole pages (start, end), in any order."""
        with self._lock:
            starts: list[int] = []
            ends: list[int] = []
            known = zip(self._starts, self._ends, strict=True)
            for start, end in sorted([*known, *ranges]):
                if ends and start <= ends[-1]:
                    ends[-1] = max(ends[-1], end)
                else:
                    starts.append(start)
                    ends.append(end)
            self._starts, self._ends = starts, ends
            self.count = (sum(ends) - sum(starts)) // PAGE_SIZE

    def ranges(self) -> list[tuple[int, int]]:
        """Start and end of each range, in order."""
        with self._lock:
            return [*zip(self._starts, self._ends, strict=True)]

    def _add(self, page: int) -> None:
        starts, ends = self._starts, self._ends
        after = bisect_right(starts, page)
        if after and page < ends[after - 1]:
            return
        self.count += 1
        if after and ends[after - 1] == page:
            ends[after - 1] = page + PAGE_SIZE
            if after < len(starts) and starts[after] == page + PAGE_SIZE:
                ends[after - 1] = ends.pop(after)
                starts.pop(after)
        elif after < len(starts) and starts[after] == page + PAGE_SIZE:
            starts[after] = page
        elif len(starts) < _MOST_RANGES:  # beyond that, a page may count twice
            starts.insert(after, page)
            ends.insert(after, page + PAGE_SIZE)
