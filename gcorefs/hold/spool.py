"""A copy that is kept in a file without a name, for processes that are larger than free memory.

The file is read and written by pread(2) and pwrite(2), and never mapped: a disk that fails would
end us by SIGBUS.  Its blocks are allocated before they are needed, so that a full disk is known
while the process can still be held instead.
"""

import errno
import os
import tempfile
import threading
from array import array
from bisect import bisect_right
from itertools import accumulate
from operator import itemgetter

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.elf import page_up
from gcorefs.hold.room import Charge, NotCopied, Room
from gcorefs.hold.store import Place, Read
from gcorefs.kernel.open_file import OpenFile
from gcorefs.process.page_providers import MayWait
from gcorefs.process.ranges import Ranges, Row, clear

_NO_FALLOCATE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Spool:
    """The bytes of one copy in a file of a directory."""

    def __init__(self, directory: str, disk: Room, memory: Room) -> None:
        """`disk`: how much the file may take.  `memory`: how much the last round may take."""
        self._directory = directory
        try:
            # O_TMPFILE where the file system has it (open(2)); nobody can open the file by a name.
            with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
                self._file = OpenFile(os.dup(file.fileno()))
        except OSError as error:
            raise NotCopied(f"spool {directory}: {error.strerror}") from error
        self._size = 0
        self._on_disk = Charge(disk, self._file)
        self._in_memory = Charge(memory, self._file)
        self._takes_into_memory = False
        self._late = _Late()

    def prepare(self, size: int) -> None:
        self.fit(size)

    def fit(self, size: int) -> None:
        size = max(page_up(size), PAGE_SIZE)
        self._on_disk.raise_to(size)
        try:
            if size > self._size and _allocate(self._file.number, self._size, size - self._size):
                self._on_disk.settle()
            os.ftruncate(self._file.number, size)
        except OSError as error:
            raise self._failed(error) from error
        self._size = size
        self._on_disk.lower_to(size)

    def fit_at_least(self, size: int) -> None:
        if size > self._size:
            self.fit(size)

    def hurry(self, size: int) -> None:
        try:
            self._in_memory.raise_to(size)
        except NotCopied:  # it has to go to the disk
            return
        self._takes_into_memory = True

    def take(self, ranges: Ranges, read: Read) -> None:
        buffer = memoryview(bytearray(sum(ranges.lengths)))
        starts = array("Q", accumulate(ranges.lengths, initial=0))
        starts.pop()
        done = len(buffer)
        try:
            read(Ranges(ranges.addresses, ranges.lengths, starts), buffer)
        except MayWait as wait:
            done = wait.done
            raise
        finally:
            self._keep(Row(ranges).between(0, done), buffer)

    def _keep(self, ranges: Ranges, buffer: memoryview) -> None:
        if self._takes_into_memory:
            self._late.add(ranges, buffer)
            return
        done = 0
        try:
            for _, length, place in ranges:
                _write(self._file.number, buffer[done : done + length], place)
                done += length
        except OSError as error:
            raise self._failed(error) from error

    def view(self, offset: int, length: int) -> memoryview | None:
        del offset, length
        return None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            part, length = self._late.at(offset + done, len(buffer) - done)
            target = buffer[done : done + length]
            if part is not None:
                target[:] = part
            else:
                self._read(offset + done, target)
            done += length

    def _read(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            count = os.preadv(self._file.number, [buffer[done:]], offset + done)
            if not count:  # behind the end: never taken
                clear(buffer[done:])
                return
            done += count

    def place(self, offset: int, length: int) -> Place:
        part, length = self._late.at(offset, length)
        return Place(None if part is not None else self._file.number, offset, length)

    def settle(self) -> None:
        self._on_disk.settle()
        self._in_memory.settle()

    def discard(self) -> None:
        os.ftruncate(self._file.number, 0)

    def _failed(self, error: OSError) -> NotCopied:
        return NotCopied(f"spool {self._directory}: {error.strerror}")


class _Late:
    """What was taken into memory, by its place: the newest of all."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, memoryview]] = []
        self._in_order: tuple[list[int], list[tuple[int, memoryview]]] | None = None
        """Their places, and the parts.  Readers replace it as a whole: several may come at once,
        and list.sort shows an empty list to all others."""
        self._lock = threading.Lock()

    def add(self, ranges: Ranges, buffer: memoryview) -> None:
        with self._lock:
            done = 0
            for _, length, place in ranges:
                self._parts.append((place, buffer[done : done + length]))
                done += length
            self._in_order = None  # made anew by the next reader

    def at(self, place: int, length: int) -> tuple[memoryview | None, int]:
        """The bytes at `place`, or None if they are in the file; and how many, at most
        `length`."""
        places, parts = self._in_order or self._put_in_order()
        index = bisect_right(places, place) - 1
        if index >= 0:
            start, part = parts[index]
            if place < start + len(part):
                found = part[place - start :][:length]
                return found, len(found)
        if index + 1 < len(places):
            length = min(length, places[index + 1] - place)
        return None, length

    def _put_in_order(self) -> tuple[list[int], list[tuple[int, memoryview]]]:
        with self._lock:
            if self._in_order is None:
                parts = sorted(self._parts, key=itemgetter(0))
                self._in_order = [start for start, _ in parts], parts
            return self._in_order


def _allocate(fd: int, offset: int, length: int) -> bool:
    """False: the file system allocates blocks only when they are written."""
    try:
        os.posix_fallocate(fd, offset, length)
    except OSError as error:
        if error.errno not in _NO_FALLOCATE:
            raise
        return False
    return True


def _write(fd: int, data: memoryview, place: int) -> None:
    while data:
        count = os.pwrite(fd, data, place)
        data, place = data[count:], place + count
