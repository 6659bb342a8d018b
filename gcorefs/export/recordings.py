"""The last cores of a process in a directory: each new one takes the place of the oldest.

A name says when the core was taken, in UTC: core.1234.20261129T195501.123Z.  Only regular files of
our own user with such a name are ever deleted.
"""

import contextlib
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


class Recordings:
    """The cores of one process in one directory."""

    def __init__(self, path: str, pid: int, keep: int, space: int) -> None:
        """`keep`: how many are kept.  `space`: how many bytes they may take on the disk; 0: any.

        SinkError: the directory cannot be opened.
        """
        self._path = path
        self._prefix = f"core.{pid}."
        self._pattern = re.compile(re.escape(self._prefix) + r"\d{8}T\d{6}\.\d{3}Z")
        self._keep = keep
        self._space = space
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

    def name_at(self, now: datetime) -> str:
        moment = now.astimezone(UTC)
        return f"{self._prefix}{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03}Z"

    def sink(self, name: str) -> FileSink:
        """SinkError."""
        path = os.path.join(self._path, name)
        return FileSink(os.dup(self._directory), name, path)

    def has_room(self, size: int) -> bool:
        """True if a core of `size` bytes may be there at all."""
        return not self._space or size <= self._space

    def make_room(self, size: int) -> None:
        """Delete the oldest cores, so that one of `size` bytes fits.  SinkError."""
        kept = self.all()
        while len(kept) > NEWEST and not self._fits(kept, size):
            self._delete(kept.pop(0))

    def trim(self) -> None:
        """Delete the oldest cores above both limits, now that there is a new one.  SinkError."""
        kept = self.all()
        while len(kept) > NEWEST and not (len(kept) <= self._keep and self._fits(kept, 0)):
            self._delete(kept.pop(0))

    def _fits(self, kept: list[Recording], size: int) -> bool:
        return not self._space or sum(each.size for each in kept) + size <= self._space

    def _delete(self, each: Recording) -> None:
        try:
            os.unlink(each.name, dir_fd=self._directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SinkError(os.path.join(self._path, each.name), error) from error
