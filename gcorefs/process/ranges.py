"""Ranges of memory, and where the bytes of each go in one buffer."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from operator import add

from gcorefs.elfcore.columns import Column, dropping, indexes
from gcorefs.elfcore.segments import ZEROS
from gcorefs.process.runs import Runs

LONGEST_PIECE = 256 << 10
"""The most bytes of one range that one call reads."""


@dataclass(slots=True)
class Ranges:
    """Ranges of memory, in ascending order.  Lengths in bytes.

    Treat it as immutable.  It is not frozen because that doubles the time to make one.
    """

    addresses: Column
    lengths: Column
    places: Column
    """Offsets in the buffer, also ascending."""

    @property
    def start(self) -> int:
        return self.addresses[0]

    @property
    def end(self) -> int:
        return self.addresses[-1] + self.lengths[-1]

    @property
    def runs(self) -> Runs:
        """The memory, without places."""
        return self.addresses, array("Q", map(add, self.addresses, self.lengths))

    @property
    def is_in_a_row(self) -> bool:
        """True if the ranges fill one part of the buffer without gaps."""
        return self.places[-1] + self.lengths[-1] - self.places[0] == sum(self.lengths)

    def __len__(self) -> int:
        return len(self.addresses)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.addresses, self.lengths, self.places, strict=True)

    def __getitem__(self, index: int) -> tuple[int, int, int]:
        """Address, length and place."""
        return self.addresses[index], self.lengths[index], self.places[index]

    def part(self, first: int, last: int) -> "Ranges":
        if first == 0 and last >= len(self.addresses):
            return self
        some = slice(first, last)
        return Ranges(self.addresses[some], self.lengths[some], self.places[some])

    def done_at(self, place: int) -> int:
        """How many bytes of the ranges, in their order, are before a place in one of them."""
        done = 0
        for _, length, first in self:
            if first <= place < first + length:
                return done + place - first
            done += length
        raise ValueError(f"there is no range at {place}")

    def behind(self, count: int) -> tuple[int, int]:
        """Where the first `count` bytes end: the index of a range, and how many of its bytes are
        among them.  If they are all bytes, the index is the number of ranges."""
        if count == sum(self.lengths):  # the usual case
            return len(self), 0
        ends = [*accumulate(self.lengths, initial=0)]
        index = bisect_right(ends, count) - 1
        return index, count - ends[index]

    def in_pieces(self) -> "Ranges":
        """The same ranges, divided into pieces of at most LONGEST_PIECE.

        The kernel copies up to 4 MiB of a range without a break (mm/process_vm_access.c,
        process_vm_rw_single_vec).  Only when it looks up pages does it give the processor to
        waiting tasks, like the reader and the event loop (mm/gup.c, __get_user_pages).
        """
        if max(self.lengths, default=0) <= LONGEST_PIECE:
            return self
        addresses, lengths, places = array("Q"), array("Q"), array("Q")
        for address, length, place in self:
            starts = range(address, address + length, LONGEST_PIECE)
            addresses.extend(starts)
            places.extend(range(place, place + length, LONGEST_PIECE))
            lengths.extend(array("Q", [LONGEST_PIECE]) * len(starts))
            lengths[-1] = address + length - starts[-1]
        return Ranges(addresses, lengths, places)


class Row:
    """Ranges one behind the other, of which parts are wanted by their bytes."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._borders = array("Q", accumulate(ranges.lengths, initial=0))

    @property
    def size(self) -> int:
        """Bytes."""
        return self._borders[-1]

    def between(self, low: int, high: int) -> Ranges:
        """The ranges from byte `low` to byte `high` of all of them."""
        borders, whole = self._borders, self._ranges
        first = bisect_right(borders, low) - 1
        last = bisect_left(borders, high, first)
        some = slice(first, last)
        found = Ranges(whole.addresses[some], whole.lengths[some], whole.places[some])
        if found.lengths:
            found.lengths[-1] -= borders[last] - high
            skipped = low - borders[first]
            found.addresses[0] += skipped
            found.places[0] += skipped
            found.lengths[0] -= skipped
        return found


def divide(addresses: Column, lengths: Column) -> tuple[Ranges, list[tuple[int, int]]]:
    """Divide ranges that fill a buffer one behind the other: the ranges of memory, and the place
    and length of each range at ZEROS."""
    places = array("Q", accumulate(lengths, initial=0))
    places.pop()
    zeros = [*indexes(addresses, ZEROS)]
    if not zeros:
        return Ranges(addresses, lengths, places), []
    ranges = Ranges(*(dropping(column, zeros) for column in (addresses, lengths, places)))
    return ranges, [(places[index], lengths[index]) for index in zeros]


def clear(buffer: memoryview) -> None:
    """Fill `buffer` with zeros."""
    if len(buffer) <= len(_ZEROS):  # the usual case
        buffer[:] = _ZEROS[: len(buffer)]
        return
    for start in range(0, len(buffer), len(_ZEROS)):
        piece = buffer[start : start + len(_ZEROS)]
        piece[:] = _ZEROS[: len(piece)]


_ZEROS = memoryview(bytes(64 << 10))
