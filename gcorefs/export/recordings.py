"""The last cores of a process in a directory: each new one takes the place of the oldest.

A name says when the core was taken, in UTC: core.1234.20261129T195501.123Z.  Only regular files of
our own user with such a name are ever deleted.  Stacks and bundles have names of their own, and
never take the place of a core.
"""

import contextlib
import errno
import os
import re
import stat
from datetime import UTC, datetime
from typing import NamedTuple

from gcorefs.export.sink import FileSink, SinkError

NEWEST = 1
"""So many are never deleted for want of space."""


class Recording(NamedTuple):
    name: str
    size: int
    """Bytes that it takes on the disk."""


class Form(NamedTuple):
    """What is kept."""

    word: str
    """The beginning of its name."""
    suffix: str = ""
    """The end of a new name."""
    suffixes: tuple[str, ...] = ("",)
    """The ends of all names."""


CORE = Form("core", suffixes=("", ".zst"))


class Bounds(NamedTuple):
    keep: int
    """How many are kept."""
    space: int
    """How many bytes they may take on the disk; 0: any."""


class Recordings:
    """The cores of one process in one directory, or its stacks, or its bundles."""

    def __init__(self, path: str, pid: int, bounds: Bounds, form: Form = CORE) -> None:
        """SinkError: the directory cannot be opened."""
        self._path = path
        self._prefix = f"{form.word}.{pid}."
        self._suffix = form.suffix
        ends = "|".join(map(re.escape, form.suffixes))
        self._pattern = re.compile(
            re.escape(self._prefix) + rf"\d{{8}}T\d{{6}}\.\d{{3}}Z(?:{ends})"
        )
        self._keep, self._space = bounds
        self._kept: list[Recording] = []
        try:
            self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SinkError(path, error) from error

    def close(self) -> None:
        os.close(self._directory)

    def all(self) -> list[Recording]:
        """The oldest first."""
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if self._pattern.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                            found.append(Recording(entry.name, status.st_blocks * 512))
        return sorted(found)

    def check(self) -> None:
        """SinkError: the directory has been removed, so that nothing can be written any more.  One
        that has its name now is another one, perhaps of another user.  Some file systems do not
        tell (overlayfs, a merged directory)."""
        try:
            if not os.fstat(self._directory).st_nlink:
                raise FileNotFoundError(errno.ENOENT, "the directory has been removed")
        except OSError as error:
            raise SinkError(self._path, error) from error

    def name_at(self, now: datetime) -> str:
        moment = now.astimezone(UTC)
        return (
            f"{self._prefix}{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03}Z{self._suffix}"
        )

    def sink(self, name: str) -> FileSink:
        """SinkError."""
        path = os.path.join(self._path, name)
        return FileSink(os.dup(self._directory), name, path)

    def bounded_sink(self, name: str) -> "BoundedSink":
        """The same for what has a size that nobody knows before.  SinkError."""
        return BoundedSink(self.sink(name), self, os.path.join(self._path, name))

    def has_room(self, size: int) -> bool:
        """True if a core of `size` bytes may be there at all."""
        return not self._space or size <= self._space

    def look(self) -> None:
        """Find out what may be deleted for the next one.  Call it before the process stands still:
        others may have any number of files in the directory.  SinkError."""
        if self._space:
            try:
                self._kept = self.all()
            except OSError as error:
                raise SinkError(self._path, error) from error

    def make_room(self, size: int) -> None:
        """Delete the oldest of the last look, so that one of `size` bytes fits.  SinkError."""
        while len(self._kept) > NEWEST and not self._fits(self._kept, size):
            self._delete(self._kept.pop(0))

    def trim(self, newest: str) -> None:
        """Delete the oldest cores above both limits, but never `newest`, which was just written:
        the clock may have been put back since others were.  SinkError."""
        kept = self.all()
        others = [each for each in kept if each.name != newest]
        while others and not (len(kept) <= self._keep and self._fits(kept, 0)):
            oldest = others.pop(0)
            kept.remove(oldest)
            self._delete(oldest)

    def _fits(self, kept: list[Recording], size: int) -> bool:
        return not self._space or sum(each.size for each in kept) + size <= self._space

    def _delete(self, each: Recording) -> None:
        try:
            os.unlink(each.name, dir_fd=self._directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SinkError(os.path.join(self._path, each.name), error) from error


class BoundedSink:
    """A file that fails when it is larger than all of them may be; older ones are deleted for it
    while it grows."""

    def __init__(self, to: FileSink, recordings: Recordings, name: str) -> None:
        """`to` is committed and aborted with this sink.  `name` is for people."""
        self._to = to
        self._recordings = recordings
        self._name = name
        self.size = 0
        self._has_room = 0

    def write(self, data: memoryview) -> None:
        self.size += len(data)
        if self.size > self._has_room:
            self._has_room = self.size + _STEP
            if not self._recordings.has_room(self.size):
                raise SinkError(self._name, OSError(errno.ENOSPC, "--space allows no more"))
            self._recordings.make_room(self._has_room)
        self._to.write(data)

    def commit(self) -> None:
        self._to.commit()

    def abort(self) -> None:
        self._to.abort()


_STEP = 1 << 20
"""Bytes after which it is looked again whether there is room."""
