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
from collections.abc import Iterator
from functools import partial

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore import file_notes
from gcorefs.elfcore.vma import MapsError
from gcorefs.kernel import statx
from gcorefs.kernel.proc import leases, map_files
from gcorefs.kernel.proc.leases import Leases
from gcorefs.process.bounded_questions import ask_each
from gcorefs.process.quiet_open import NotOpenedError, open_regular
from gcorefs.sources.procfs import maps

MOST_FILES = 256
"""So many descriptors at most are open for one process."""

_LONGEST_ID = 64
"""Bytes; those of ld(1) have 20 at most.  A name of a file has no room for more than 124."""

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
        self._tid = tid
        self._leases: Leases | None = None
        self._lost: list[tuple[bytes, str]] = []  # build-id, and the path of a descriptor
        link = f"/proc/{tid}/exe"
        with contextlib.suppress(OSError):
            self.program = os.readlink(link.encode()).removesuffix(_DELETED)
        # The server of a file may not answer.
        questions = [
            (os.fsdecode(path), partial(self._look_at, path, map_files.map_file(tid, *place)))
            for path, place in self.mapped.items()
        ]
        program = os.fsdecode(self.program), partial(self._look_at_program, link)
        ask_each([program, *questions], otherwise=lambda number: None)

    def _look_at_program(self, link: str, may_wait: bool) -> None:
        if not may_wait:
            return
        with contextlib.suppress(OSError, NotOpenedError):
            fd = self._opened(link)
            self._open.callback(os.close, fd)
            is_of_go = file_notes.is_of_go(notes_of(fd))
            self.executable, self.is_of_go = _path(fd), is_of_go

    def _look_at(self, path: bytes, link: str, may_wait: bool) -> None:
        """Keep a file to which its path does not lead, if we may follow the link."""
        if not may_wait or len(self._lost) == MOST_FILES:
            return
        with contextlib.suppress(OSError, NotOpenedError):
            if _identity(path) != statx.cached_stat(link).identity:
                self._keep(link)

    def _keep(self, link: str) -> None:
        """Keep the file open if it has a build-id."""
        fd = self._opened(link)
        with contextlib.ExitStack() as unwanted:
            unwanted.callback(os.close, fd)
            build_id = file_notes.build_id(notes_of(fd))
            if 0 < len(build_id) <= _LONGEST_ID:
                self._lost.append((build_id, _path(fd)))
                self._open.push(unwanted.pop_all())

    def _opened(self, path: str) -> int:
        if self._leases is None:
            self._leases = leases.leases(self._tid) or {}
        return open_regular(path, self._leases, self._tid)

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
