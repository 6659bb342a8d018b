"""The seek table of a zstd file: where each frame is, and which bytes it holds.

The seekable format (facebook/zstd, contrib/seekable_format/zstd_seekable_compression_format.md,
version 0.1.1): a zstd file of independent frames, and behind them a skippable frame, which other
programs skip, with

    for each frame   u32 its size, u32 the size of its content[, u32 a checksum]
    at the end       u32 number of frames, u8 flags, u32 0x8F92EAB1

All numbers are little-endian.
"""

import bisect
import itertools
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gcorefs.errors import GcorefsError

FRAME_MAGIC = b"\x28\xb5\x2f\xfd"
"""The first bytes of a zstd frame (RFC 8878, 3.1.1)."""

_SKIPPABLE = 0x184D2A5E
_SEEKABLE = 0x8F92EAB1
_HAS_CHECKSUMS = 0x80
_RESERVED = 0x7C
_HEAD = struct.Struct("<2I")
_FOOT = struct.Struct("<IBI")
FOOT_SIZE = _FOOT.size
MOST_FRAMES = 0x8000000

_MISSING = "its seek table does not fit the rest: bytes are missing"
_LITTLE = sys.byteorder == "little"


class TableError(GcorefsError, ValueError):
    """There is no such table.  The text says why."""


class Frame(NamedTuple):
    offset: int
    """In the file."""
    size: int
    start: int
    """The offset of its content."""
    length: int


def packed(sizes: "array[int]") -> bytes:
    """The table, as it is written.  `sizes`: of each frame its size and that of its content."""
    content = array("I", sizes)
    if not _LITTLE:
        content.byteswap()
    rows = content.tobytes()
    foot = _FOOT.pack(len(sizes) // 2, 0, _SEEKABLE)
    return _HEAD.pack(_SKIPPABLE, len(rows) + len(foot)) + rows + foot


def table_size(foot: bytes, file_size: int) -> int:
    """The bytes of the whole table.  `foot`: the last FOOT_SIZE bytes of the file.  TableError."""
    if len(foot) < FOOT_SIZE:
        raise TableError("it has no seek table")
    count: int
    count, flags, magic = _FOOT.unpack(foot)
    if magic != _SEEKABLE:
        raise TableError("it has no seek table")
    if flags & _RESERVED or count > MOST_FRAMES:
        raise TableError("its seek table is of a kind that is not known")
    size = _HEAD.size + count * _row_size(flags) + FOOT_SIZE
    if size > file_size:
        raise TableError(_MISSING)
    return size


def pieces(foot: bytes, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of each piece in which a table of `size` bytes is to be read."""
    yield 0, _HEAD.size
    step = _row_size(_FOOT.unpack(foot)[1]) << 16
    for offset in range(_HEAD.size, size - FOOT_SIZE, step):
        yield offset, min(step, size - FOOT_SIZE - offset)
    yield size - FOOT_SIZE, FOOT_SIZE


def check_rows(rows: bytes, foot: bytes) -> None:
    """TableError: one of these rows tells of a frame without a byte, and there is none.  So a
    sparse file is refused before a gibibyte of its holes is in memory."""
    words = array("I", rows)
    if not _LITTLE:
        words.byteswap()
    step = _row_size(_FOOT.unpack(foot)[1]) // words.itemsize
    if 0 in words[::step]:
        raise TableError("its seek table is damaged")


def _row_size(flags: int) -> int:
    return 12 if flags & _HAS_CHECKSUMS else 8


class SeekTable:
    """Finds the frames with the bytes of a range."""

    def __init__(self, table: bytes, frames_size: int) -> None:
        """`table`: all bytes of it.  `frames_size`: the bytes in front of it.  TableError."""
        count, flags, _ = _FOOT.unpack(table[-FOOT_SIZE:])
        magic, size = _HEAD.unpack_from(table)
        if magic != _SKIPPABLE or size != len(table) - _HEAD.size:
            raise TableError("its seek table is damaged")
        words = array("I", table[_HEAD.size : -FOOT_SIZE])
        if not _LITTLE:
            words.byteswap()
        step = _row_size(flags) // words.itemsize
        self._offsets = _sums(words[::step])
        self._starts = _sums(words[1::step])
        self.count: int = count
        if self._offsets[-1] != frames_size:
            raise TableError(_MISSING)

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return self._starts[-1]

    def frames(self, offset: int, end: int) -> Iterator[Frame]:
        """The frames with the bytes of the content from `offset` to `end`, in order."""
        number = bisect.bisect_right(self._starts, offset) - 1
        while offset < end and number < self.count and self._starts[number] < end:
            at, start = self._offsets[number], self._starts[number]
            number += 1
            size, length = self._offsets[number] - at, self._starts[number] - start
            if length:  # else it is a skippable frame
                yield Frame(at, size, start, length)


def _sums(numbers: Iterable[int]) -> "array[int]":
    return array("Q", itertools.accumulate(numbers, initial=0))
