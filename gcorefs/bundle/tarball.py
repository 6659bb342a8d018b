"""A tar file, written to a sink from its beginning to its end.

The format is that of GNU tar: names of any length and any bytes, and files of any size.  Nobody but
the owner may read what is unpacked.
"""

import contextlib
import errno
import io
import os
import posixpath
import tarfile
from collections.abc import Callable
from typing import IO, Any, cast

from gcorefs.export.sink import Sink

ReadAt = Callable[[int, int], bytes]
"""Takes an offset and a length.  Returns fewer bytes only at the end."""

_PIECE = 1 << 20


class Tarball:
    """A single directory `top`, and all else below it."""

    def __init__(self, sink: Sink, top: str, when: float) -> None:
        """The caller commits or aborts `sink`.  `when`: seconds since the epoch."""
        self._top = top
        self._when = int(when)
        self._to = _Writer(sink)
        self._folders: set[str] = set()
        self._tar = tarfile.open(  # noqa: SIM115 (end and close close it)
            mode="w|",
            fileobj=cast(IO[bytes], self._to),
            bufsize=_PIECE,
            format=tarfile.GNU_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
        )

    def add(self, place: str, size: int, read: ReadAt, mode: int = 0o600) -> None:
        """A file of `size` bytes.  SinkError, and the errors of `read`."""
        info = self._info(place, mode)
        info.size = size
        self._tar.addfile(info, cast(IO[bytes], _Reader(read)))

    def add_bytes(self, place: str, data: bytes, mode: int = 0o600) -> None:
        self.add(place, len(data), lambda at, length: data[at : at + length], mode)

    def add_link(self, place: str, target: str) -> None:
        """A symbolic link to another place of the bundle."""
        info = self._info(place, 0o777)
        info.type = tarfile.SYMTYPE
        # From the root: else relpath asks for the current directory, which may have been removed.
        info.linkname = posixpath.relpath(f"/{target}", f"/{posixpath.dirname(place)}")
        self._tar.addfile(info)

    def add_folder(self, place: str) -> None:
        """A directory and those above it, if they are not there yet."""
        words = place.split("/") if place else []
        for count in range(len(words) + 1):
            folder = "/".join(words[:count])
            if folder not in self._folders:
                self._folders.add(folder)
                info = self._named(folder, 0o700)
                info.type = tarfile.DIRTYPE
                self._tar.addfile(info)

    def end(self) -> None:
        """Write the end.  SinkError."""
        self._tar.close()
        cast(Any, self._tar.fileobj).close()

    def close(self) -> None:
        """Without `end`: write nothing more.  A thread that still does gets ECANCELED."""
        self._to.is_open = False
        # Otherwise its finalizer would write what it still has.
        with contextlib.suppress(OSError):
            cast(Any, self._tar.fileobj).close()

    def _info(self, place: str, mode: int) -> tarfile.TarInfo:
        self.add_folder(posixpath.dirname(place))
        return self._named(place, mode)

    def _named(self, place: str, mode: int) -> tarfile.TarInfo:
        info = tarfile.TarInfo(f"{self._top}/{place}" if place else self._top)
        info.mode = mode
        info.mtime = self._when
        return info


class _Writer:
    """A sink as a file that can only be written to."""

    def __init__(self, sink: Sink) -> None:
        self.is_open = True
        self._sink = sink

    def write(self, data: bytes) -> int:
        if not self.is_open:
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        self._sink.write(memoryview(data))
        return len(data)


class _Reader(io.RawIOBase):
    """Reads in large pieces: tarfile asks for small ones, and each read of a core is a message to
    another thread."""

    def __init__(self, read: ReadAt) -> None:
        self._read_at = read
        self._offset = 0
        self._piece = memoryview(b"")

    def read(self, length: int = -1) -> bytes:
        if not self._piece:
            self._piece = memoryview(self._read_at(self._offset, _PIECE))
            self._offset += len(self._piece)
        data = bytes(self._piece[:length])
        self._piece = self._piece[length:]
        return data
