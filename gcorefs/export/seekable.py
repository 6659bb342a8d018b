"""Reads any part of a compressed file with a seek table (compressed.py), without the rest."""

import errno
import io
import os
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import zstandard

from gcorefs.errors import GcorefsError
from gcorefs.export import seek_table
from gcorefs.export.seek_table import FOOT_SIZE, FRAME_MAGIC, Frame, SeekTable, TableError

_LARGEST_FRAME = 64 << 20
"""A frame is decompressed as a whole: only then its checksum counts."""


_OTHER_SIZE = "its size is not that in the seek table"


class SeekableError(GcorefsError, OSError):
    """The file cannot be read so.  `filename` names it; `strerror` says why."""

    def __init__(self, name: str, text: str, number: int = errno.EINVAL) -> None:
        super().__init__(number, text, name)

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class SeekableFile:
    """The content of a compressed file.  One thread may use it at a time."""

    def __init__(self, path: str) -> None:
        """SeekableError."""
        self._name = path
        try:
            # A FIFO would wait for a writer.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise self._failed(error) from error
        try:
            self._table = self._read_table()
        except BaseException:
            self.close()
            raise
        self._zstd = zstandard.ZstdDecompressor()
        self._last: tuple[Frame | None, bytes] = None, b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return self._table.size

    @property
    def modified(self) -> int:
        """When the file was written, in nanoseconds since the epoch."""
        return self._modified

    def pieces(self, offset: int, length: int) -> Iterator[memoryview]:
        """The bytes of the content from `offset` on, one piece a frame; fewer only at the end.

        SeekableError: they are damaged, and no byte of that frame is given.
        """
        end = min(offset + length, self.size)
        for frame in self._table.frames(offset, end):
            content = memoryview(self.content(frame))
            yield content[max(0, offset - frame.start) : end - frame.start]

    def frames(self, offset: int, length: int) -> Iterator[Frame]:
        """The frames with these bytes."""
        return self._table.frames(offset, min(offset + length, self.size))

    def content(self, frame: Frame) -> bytes:
        """What a frame holds, all of it.  The last one is kept: readers go from piece to piece.
        SeekableError."""
        last, content = self._last  # read it once: other threads read too
        if last != frame:
            content = self._unpacked(frame)
            self._last = frame, content
        return content

    def _unpacked(self, frame: Frame) -> bytes:
        if frame.length > _LARGEST_FRAME or frame.size > 2 * _LARGEST_FRAME:
            raise SeekableError(
                self._name,
                f"a frame of it has {frame.length} bytes, which is too much to read a part of it; "
                "zstd -d reads it all",
            )
        data = self._read(frame.offset, frame.size)
        try:
            # What the frame says of its content is allocated at once.
            if zstandard.frame_content_size(data) not in (-1, frame.length):
                raise self._damaged(frame, _OTHER_SIZE)
            content = self._zstd.decompress(data, frame.length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise self._damaged(frame, str(error)) from error
        if len(content) != frame.length:
            raise self._damaged(frame, _OTHER_SIZE)
        return content

    def _damaged(self, frame: Frame, why: str) -> SeekableError:
        text = f"the frame at {frame.offset:#x} is damaged: {why}"
        return SeekableError(self._name, text, errno.EIO)

    def _read_table(self) -> SeekTable:
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise SeekableError(self._name, "it is no regular file")
        size = status.st_size
        self._modified = status.st_mtime_ns
        try:
            foot = self._read(max(0, size - FOOT_SIZE), FOOT_SIZE)
            length = seek_table.table_size(foot, size)
            return SeekTable(self._read_rows(foot, size - length, length), size - length)
        except TableError as error:
            raise SeekableError(self._name, f"{error}; {self._advice()}") from error

    def _read_rows(self, foot: bytes, start: int, length: int) -> bytes:
        """The whole table.  SeekableError, TableError."""
        table = bytearray()
        for offset, size in seek_table.pieces(foot, length):
            piece = self._read(start + offset, size)
            if 0 < offset < length - FOOT_SIZE:
                seek_table.check_rows(piece, foot)
            table += piece
        return bytes(table)

    def _advice(self) -> str:
        beginning = self._read(0, len(FRAME_MAGIC))
        if beginning == FRAME_MAGIC:
            return "it was cut short, or another program compressed it: zstd -d reads what is there"
        if beginning == b"\x7fELF":
            return "it is a core that is not compressed"
        return "it is no core that gcorefs dump --compress zstd has written"

    def _read(self, offset: int, length: int) -> bytes:
        """So many bytes of the file, fewer at its end.  SeekableError."""
        pieces = []
        try:
            while length and (piece := os.pread(self._fd, length, offset)):
                pieces.append(piece)
                offset += len(piece)
                length -= len(piece)
        except OSError as error:
            raise self._failed(error) from error
        return b"".join(pieces)

    def _failed(self, error: OSError) -> SeekableError:
        return SeekableError(self._name, error.strerror or str(error), error.errno or errno.EIO)


class ContentStream(io.RawIOBase):
    """The content as a stream, for those who seek and read."""

    def __init__(self, file: SeekableFile) -> None:
        super().__init__()
        self._file = file
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._file.size}[whence]
        self._offset = max(0, start + offset)
        return self._offset

    def read(self, size: int = -1) -> bytes:
        """SeekableError."""
        size = self._file.size if size < 0 else size
        data = b"".join(self._file.pieces(self._offset, size))
        self._offset += len(data)
        return data
