"""One run of bytes in many pieces, for a header that is mostly registers.

The registers of ten thousand threads take 30 MiB, but nearly all of it is zeros or equal in many
threads.  A shelf compresses the pieces, one row at a time, to a hundredth of that size.
"""

import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import NamedTuple, Protocol, TypeAlias

_ROW = 1 << 20
_SHORTER = 4
"""Rows that are made later are shorter by this factor: a reader may wait for the first one."""
_QUICKLY = 1  # a level of zlib: higher levels take longer and save hardly more

Later = Callable[[Callable[[], bytes]], Callable[[], bytes]]
"""Starts some work, possibly in another thread, and returns a function that gives its result."""


def at_once(work: Callable[[], bytes]) -> Callable[[], bytes]:
    result = work()
    return lambda: result


def compress(data: bytes | bytearray) -> bytes:
    """A row as it is kept."""
    return zlib.compress(data, _QUICKLY)


class Rows:
    """Compressed rows.  The one that was unpacked last is kept: readers go from piece to piece."""

    def __init__(self) -> None:
        self._rows: list[Callable[[], bytes]] = []
        self._last = -1, b""

    def append(self, row: Callable[[], bytes]) -> None:
        """`row` gives what `compress` made, each time that it is called."""
        self._rows.append(row)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> bytes:
        last, row = self._last  # read it once: other threads read too
        if last != number:
            row = zlib.decompress(self._rows[number]())
            self._last = number, row
        return row


class Shelf:
    """Keeps pieces of bytes, each compressed together with its neighbours."""

    def __init__(self, later: Later = at_once, length: int = _ROW) -> None:
        """`length`: bytes of a row."""
        self._later = later
        self._length = length
        self._rows = Rows()
        self._row: list[bytes] = []  # the row that is being filled
        self._filled = 0

    def put(self, data: bytes) -> "Packed":
        packed = Packed(self, len(self._rows), self._filled, self._filled + len(data))
        self._row.append(data)
        self._filled = packed.stop
        if self._filled >= self._length:
            self._end_row()
        return packed

    def reserve(self, size: int, count: int, make: Callable[[int, int], bytes]) -> "list[Packed]":
        """Room for `count` pieces of `size` bytes.  `make(first, last)` makes some of them at once,
        possibly later."""
        if self._row:
            self._end_row()
        each = max(1, self._length // _SHORTER // size)
        pieces = []
        for first in range(0, count, each):
            last = min(first + each, count)
            ends = range(size, (last - first + 1) * size, size)
            pieces += [Packed(self, len(self._rows), end - size, end) for end in ends]
            self._rows.append(self._later(partial(_made, make, first, last, size)))
        return pieces

    def _end_row(self) -> None:
        self._rows.append(self._later(partial(_joined, self._row)))
        self._row, self._filled = [], 0

    def row(self, number: int) -> bytes:
        if number == len(self._rows):
            return b"".join(self._row)
        return self._rows[number]


def _made(make: Callable[[int, int], bytes], first: int, last: int, size: int) -> bytes:
    data = make(first, last)
    if len(data) != (last - first) * size:
        raise ValueError(f"{len(data)} bytes for {last - first} pieces of {size}")
    return compress(data)


def _joined(row: Sequence[bytes]) -> bytes:
    return compress(b"".join(row))


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


class Unmade(Protocol):
    """A piece that is made each time that it is read."""

    @property
    def size(self) -> int: ...

    def unpack(self) -> bytes: ...


Piece: TypeAlias = bytes | bytearray | Unmade
"""Bytes, or what makes them."""
_MADE = bytes, bytearray


class Pieces:
    """Pieces of bytes, one behind the other."""

    def __init__(self, pieces: Iterable[Piece] = ()) -> None:
        self._pieces: list[Piece] = []
        self._offsets = array("Q", [0])  # piece i is from _offsets[i] to _offsets[i + 1]
        self.extend(pieces)

    def extend(self, pieces: Iterable[Piece]) -> None:
        added = [*pieces]
        sizes = [len(each) if isinstance(each, _MADE) else each.size for each in added]
        self._pieces += added
        self._offsets.extend(accumulate(sizes, initial=self._offsets.pop()))

    @property
    def size(self) -> int:
        return self._offsets[-1]

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`.  The range must not reach beyond the end."""
        index = bisect_right(self._offsets, offset) - 1
        done = 0
        while done < len(buffer):
            piece = self._pieces[index]
            data = piece if isinstance(piece, _MADE) else piece.unpack()
            start = offset + done - self._offsets[index]
            found = memoryview(data)[start : start + len(buffer) - done]
            buffer[done : done + len(found)] = found
            done += len(found)
            index += 1

    def __bytes__(self) -> bytes:
        buffer = bytearray(self.size)
        self.read_into(0, memoryview(buffer))
        return bytes(buffer)
