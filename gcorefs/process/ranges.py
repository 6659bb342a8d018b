"""Ranges of memory, and where the bytes of each go in one buffer."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, compress, repeat
from operator import eq, ne

from gcorefs.elfcore.segments import ZEROS, Column

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
    def is_in_a_row(self) -> bool:
        """True if the ranges fill one part of the buffer without gaps."""
        return self.places[-1] + self.lengths[-1] - self.places[0] == sum(self.lengths)

    def __len__(self) -> int:
        return len(self.addresses)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.addresses, self.lengths, self.places, strict=True)

    def part(self, first: int, last: int) -> "Ranges":
        if first == 0 and last >= len(self.addresses):
            return self
        some = slice(first, last)
        return Ranges(self.addresses[some], self.lengths[some], self.places[some])

    def behind(self, count: int) -> Iterator[tuple[int, int, int]]:
        """The rest of the ranges behind the first `count` bytes."""
        if count == sum(self.lengths):  # the usual case
            return
        for address, length, place in self:
            if count < length:
                yield address + count, length - count, place + count
            count = max(0, count - length)

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


def divide(addresses: Column, lengths: Column) -> tuple[Ranges, Iterator[tuple[int, int]]]:
    """Divide ranges that fill a buffer one behind the other: the ranges of memory, and the place
    and length of each range at ZEROS."""
    places = array("Q", accumulate(lengths, initial=0))
    places.pop()
    if ZEROS not in addresses:
        return Ranges(addresses, lengths, places), iter(())
    is_memory = bytes(map(ne, addresses, repeat(ZEROS)))
    columns = (array("Q", compress(column, is_memory)) for column in (addresses, lengths, places))
    is_zeros = map(eq, addresses, repeat(ZEROS))
    return Ranges(*columns), compress(zip(places, lengths, strict=True), is_zeros)


def clear(buffer: memoryview) -> None:
    """Fill `buffer` with zeros."""
    for start in range(0, len(buffer), len(_ZEROS)):
        piece = buffer[start : start + len(_ZEROS)]
        piece[:] = _ZEROS[: len(piece)]


_ZEROS = memoryview(bytes(64 << 10))
