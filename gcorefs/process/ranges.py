"""Ranges of memory, and where the bytes of each go in one buffer."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, compress, repeat
from operator import eq, ne

from gcorefs.elfcore.segments import ZEROS, Column

LONGEST_PIECE = 256 << 10
"""Bytes of one range that are read with one call, where more than that are wanted."""


@dataclass(slots=True)
class Ranges:
    """Ranges of memory, in ascending order.  Lengths in bytes.

    Nobody changes it.  It is not frozen, for that would double the time to make one.
    """

    addresses: Column
    lengths: Column
    places: Column
    """Offsets in the buffer, ascending as well."""

    @property
    def start(self) -> int:
        return self.addresses[0]

    @property
    def end(self) -> int:
        return self.addresses[-1] + self.lengths[-1]

    @property
    def is_in_a_row(self) -> bool:
        """True where the bytes of each range lie right behind those of the one before it."""
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
        """What is left where the first `count` bytes have been read."""
        if count == sum(self.lengths):  # as nearly always
            return
        for address, length, place in self:
            if count < length:
                yield address + count, length - count, place + count
            count = max(0, count - length)

    def in_pieces(self) -> "Ranges":
        """The same ranges, none of them long.

        The kernel copies a range of up to 4 MiB in one go (mm/process_vm_access.c,
        process_vm_rw_single_vec), and only where it looks up pages does it let others run that
        wait for this processor (mm/gup.c, __get_user_pages): the reader, and the event loop.
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
    """What is memory of ranges that fill a buffer one after the other, and the place and length
    of each that is ZEROS."""
    places = array("Q", accumulate(lengths, initial=0))
    places.pop()
    if ZEROS not in addresses:
        return Ranges(addresses, lengths, places), iter(())
    is_memory = bytes(map(ne, addresses, repeat(ZEROS)))
    columns = (array("Q", compress(column, is_memory)) for column in (addresses, lengths, places))
    is_zeros = map(eq, addresses, repeat(ZEROS))
    return Ranges(*columns), compress(zip(places, lengths, strict=True), is_zeros)


def clear(buffer: memoryview) -> None:
    """Make it zeros."""
    for start in range(0, len(buffer), len(_ZEROS)):
        piece = buffer[start : start + len(_ZEROS)]
        piece[:] = _ZEROS[: len(piece)]


_ZEROS = memoryview(bytes(64 << 10))
