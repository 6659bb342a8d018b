"""The files of a process for a reader, whatever has become of their paths.

A reader opens the files of a process by their paths, in our mount namespace.  If a file was deleted
or replaced, or if the process is in a container, the path leads to nothing or to another file.
Readers know each file by its build-id, and look for it below .build-id of some folders.  So there
is a folder with a link for each such file, which leads to a descriptor of ours: it stays good when
the process ends.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from functools import partial

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore import file_notes
from gcorefs.elfcore.vma import MapsError
from gcorefs.kernel import statx
from gcorefs.kernel.proc import map_files
from gcorefs.process.bounded_questions import ask_each
from gcorefs.sources.procfs import maps

MOST_FILES = 256
"""So many descriptors at most are open for one process."""

_FIRST = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) r..p 00000000 \S+ \d+ +(/.*)$", re.MULTILINE)
_DELETED = b" (deleted)"


def beginnings(tid: int) -> dict[bytes, tuple[int, int]]:
    """By path: the mapping that has the beginning of a file; nothing if /proc does not show it."""
    with contextlib.suppress(OSError, MapsError), maps(tid) as text:
        return {path: (int(start, 16), int(end, 16)) for start, end, path in _FIRST.findall(text)}
    return {}


class Files:
    """Close it when no reader uses them any more."""

    def __init__(self, tid: int) -> None:
        """`tid`: a living thread."""
        self._open = contextlib.ExitStack()
        self.executable = ""
        """A path that leads to the program; empty if it cannot be opened."""
        self.program = b""
        """The path of the program in the mount namespace of the process."""
        self.is_of_go = False
        self.mapped = beginnings(tid)
        self._lost: list[tuple[bytes, str]] = []  # build-id, and the path of a descriptor
        with contextlib.suppress(OSError):
            self.program = os.readlink(f"/proc/{tid}/exe".encode()).removesuffix(_DELETED)
            fd = self._opened(f"/proc/{tid}/exe")
            self.executable = _path(fd)
            self.is_of_go = file_notes.is_of_go(notes_of(fd))
        # The server of a file may not answer.
        ask_each(
            [
                (os.fsdecode(path), partial(self._look_at, path, map_files.map_file(tid, *place)))
                for path, place in self.mapped.items()
            ],
            otherwise=lambda number: None,
        )

    def _look_at(self, path: bytes, link: str, may_wait: bool) -> None:
        """Keep a file to which its path does not lead, if we may follow the link."""
        if not may_wait or len(self._lost) == MOST_FILES:
            return
        with contextlib.suppress(OSError):
            found = statx.cached_stat(link)
            # An open of a device may have an effect.
            if stat.S_ISREG(found.mode) and _identity(path) != found.identity:
                self._keep(self._opened(link))

    def _keep(self, fd: int) -> None:
        if build_id := file_notes.build_id(notes_of(fd)):
            self._lost.append((build_id, _path(fd)))

    def _opened(self, path: str) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._open.callback(os.close, fd)
        return fd

    def link(self, folder: str) -> None:
        """Make the links of the files below .build-id in a folder that is empty.  OSError."""
        for build_id, path in self._lost:
            digits = build_id.hex()
            place = os.path.join(folder, ".build-id", digits[:2])
            os.makedirs(place, exist_ok=True)
            for ending in ("", ".debug"):
                with contextlib.suppress(FileExistsError):
                    os.symlink(path, os.path.join(place, digits[2:] + ending))

    def close(self) -> None:
        self._open.close()


def _identity(path: bytes) -> tuple[int, int, int] | None:
    """That of the file to which a path leads here."""
    try:
        return statx.cached_stat(path).identity
    except OSError:
        return None


def _path(fd: int) -> str:
    """A path that leads children of this process to an open file."""
    return f"/proc/{os.getpid()}/fd/{fd}"


def notes_of(fd: int) -> Iterator[file_notes.Note]:
    for offset, size in file_notes.note_ranges(os.pread(fd, PAGE_SIZE, 0)):
        yield from file_notes.notes(os.pread(fd, size, offset))
