"""One run of bytes in many pieces, for a header that is mostly registers.

Those of ten thousand threads are 30 MiB, of which nearly all is zeros or what others have as
well.  So they are put on a shelf, a row at a time: a hundredth of that is left.
"""

import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

_ROW = 1 << 20
_SHORTER = 4
"""Rows that are made later are so much shorter: somebody may wait for the first."""
_QUICKLY = 1  # zlib's level: others take longer and find hardly more

Later = Callable[[Callable[[], bytes]], Callable[[], bytes]]
"""Begins a piece of work, it may be in another thread, and says how to ask for its result."""


def _at_once(work: Callable[[], bytes]) -> Callable[[], bytes]:
    result = work()
    return lambda: result


class Shelf:
    """Keeps pieces of bytes, compressed with those put there before and after."""

    def __init__(self, later: Later = _at_once) -> None:
        self._later = later
        self._rows: list[Callable[[], bytes]] = []
        self._row: list[bytes] = []  # that is being filled
        self._filled = 0
        self._last = -1, b""  # what was unpacked last, as a reader goes from one to the next

    def put(self, data: bytes) -> "Packed":
        packed = Packed(self, len(self._rows), self._filled, self._filled + len(data))
        self._row.append(data)
        self._filled = packed.stop
        if self._filled >= _ROW:
            self._end_row()
        return packed

    def reserve(self, size: int, count: int, make: Callable[[int, int], bytes]) -> "list[Packed]":
        """Room for `count` pieces of `size` bytes; those from one number to another are made at
        a time, whenever that is."""
        if self._row:
            self._end_row()
        each = max(1, _ROW // _SHORTER // size)
        pieces = []
        for first in range(0, count, each):
            last = min(first + each, count)
            ends = range(size, (last - first + 1) * size, size)
            pieces += [Packed(self, len(self._rows), end - size, end) for end in ends]
            self._rows.append(self._later(partial(_made, make, first, last, size)))
        return pieces

    def _end_row(self) -> None:
        self._rows.append(self._later(partial(_compressed, self._row)))
        self._row, self._filled = [], 0

    def row(self, number: int) -> bytes:
        if number == len(self._rows):
            return b"".join(self._row)
        last, row = self._last  # one look: others read as well
        if last != number:
            row = zlib.decompress(self._rows[number]())
            self._last = number, row
        return row


def _made(make: Callable[[int, int], bytes], first: int, last: int, size: int) -> bytes:
    data = make(first, last)
    if len(data) != (last - first) * size:
        raise ValueError(f"{len(data)} bytes for {last - first} pieces of {size}")
    return _compressed([data])


def _compressed(row: Sequence[bytes]) -> bytes:
    return zlib.compress(b"".join(row), _QUICKLY)


class Packed(NamedTuple):
    """A piece on a shelf."""

    shelf: Shelf
    row: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    def unpack(self) -> bytes:
        return self.shelf.row(self.row)[self.start : self.stop]


class Pieces:
    """The pieces one behind the other."""

    def __init__(self, pieces: Iterable[bytes | Packed] = ()) -> None:
        self._pieces: list[bytes | Packed] = []
        self._offsets = array("Q", [0])  # piece i is from _offsets[i] to _offsets[i + 1]
        self.extend(pieces)

    def extend(self, pieces: Iterable[bytes | Packed]) -> None:
        offset = self.size
        for piece in pieces:
            offset += piece.size if isinstance(piece, Packed) else len(piece)
            self._pieces.append(piece)
            self._offsets.append(offset)

    @property
    def size(self) -> int:
        return self._offsets[-1]

    def __iter__(self) -> Iterator[bytes | Packed]:
        return iter(self._pieces)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; it must not reach beyond the end."""
        index = bisect_right(self._offsets, offset) - 1
        done = 0
        while done < len(buffer):
            piece = self._pieces[index]
            data = piece.unpack() if isinstance(piece, Packed) else piece
            start = offset + done - self._offsets[index]
            found = data[start : start + len(buffer) - done]
            buffer[done : done + len(found)] = found
            done += len(found)
            index += 1

    def __bytes__(self) -> bytes:
        buffer = bytearray(self.size)
        self.read_into(0, memoryview(buffer))
        return bytes(buffer)
