"""Bytes out of a process that stands still.

Three ways meet here, and a fourth that is known to be zeros:

- process_vm_readv(2) is the quick way, and reads many ranges with one call.  It stops short at
  a page that it cannot have; such a page is tried once more through /proc/PID/mem.
- /proc/PID/mem (mem.py) also reads what is mapped PROT_NONE (FOLL_FORCE in fs/proc/base.c,
  mem_rw), and does not copy pages that are shared since a fork(2) (copy_on_write.py).
- Shared memory without a name is read from its file (shared.py).

What none can read ([vvar], [vsyscall], pages past the end of a mapped file) is zeros here, as
it is a hole in the kernel's own cores, and is counted.

Through /proc/PID/mem no page is read that somebody has to bring (absent.py): such a page is
had the quick way or not at all.  Where process_vm_readv(2) is denied (readv.py), all is read
through /proc/PID/mem, and what a disk has to bring as well; any other such page is an error.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.segments import ZEROS, Column
from gcorefs.process.absent import Absent, MayWait, NotBrought
from gcorefs.process.copy_on_write import CopyOnWrite
from gcorefs.process.lost import Lost
from gcorefs.process.mem import MemFile
from gcorefs.process.pagemap import Pagemap
from gcorefs.process.ranges import LONGEST_PIECE, Ranges, clear, divide
from gcorefs.process.readv import Readv
from gcorefs.process.shared import Shared


@dataclass(frozen=True, slots=True)
class Ways:
    """What is asked before every read of a process: which way each page is read."""

    shared: Shared
    absent: Absent
    copy_on_write: CopyOnWrite
    pagemap: Pagemap
    only_pinned: bool = False
    """Some thread did not stop, and may yet call execve(2).  process_vm_readv(2) would
    then read the new program, under our credentials; the open mem file still means the
    old one, and has nothing any more (fs/proc/base.c, mem_rw)."""


class Memory:
    """The memory of one process, read through one of its threads while that is held."""

    def __init__(self, mem: MemFile, ways: Ways, lost: Lost, check: Callable[[], None]) -> None:
        """`check` is asked after every read, and raises where it came too late to be true.

        Into `lost` go the pages that could not be had and are zeros.
        """
        self.lost = lost
        self.ways = ways
        self._check = check
        self._mem = mem
        self._readv = Readv(mem.pid, mem.tid)

    @property
    def pid(self) -> int:
        return self._mem.pid

    def read_into(
        self, address: int, buffer: memoryview, sources: Container[str] | None = None
    ) -> None:
        """Fill `buffer` (writable, bytes) from `address`.  EIO: died or let go.

        MayWait, once all before is done, at a page that others than `sources` have to bring
        (None: wait for anybody).
        """
        if sources is not None:
            first = self.ways.absent.first(address, len(buffer), sources)
            if first is not None:
                done = first[0] - address
                if done:
                    self.read_into(address, buffer[:done])
                raise MayWait(first[1], done)
        done = self.ways.shared.read_into(address, buffer)
        self._read_private(address + done, buffer[done:])
        self._check()

    def read_at_once(self, address: int, buffer: memoryview) -> bool:
        """Fill `buffer` from `address`, if every page is there and nothing has to be waited for.

        False: it was not filled, and the other ways are to be gone.  EIO: died or let go.
        """
        end = address + len(buffer)
        if self.ways.only_pinned or self._has_other_ways(address, end):
            return False
        try:
            if not self.ways.pagemap.is_present(address, len(buffer)):
                return False
            count = self._read_present(address, buffer)
        except OSError:  # they will meet it again
            return False
        self._check()
        return count == len(buffer)

    def _read_present(self, address: int, buffer: memoryview) -> int:
        """How many bytes from the beginning could be had, of pages that are all in memory."""
        if self._readv.is_denied:
            return self._mem.read(address, buffer)
        for start, end in self.ways.copy_on_write.runs(address, len(buffer)):
            if (start, end) == (address, address + len(buffer)):
                return self._mem.read(address, buffer)
            return 0
        return self._readv.read(address, buffer)

    def read_ranges(
        self,
        addresses: Column,
        lengths: Column,
        buffer: memoryview,
        sources: Container[str] | None = None,
    ) -> None:
        """Fill `buffer` from ranges of memory, which ascend, one after the other; ZEROS among
        them are zeros.

        As read_into, but in as few calls as it takes.
        """
        if len(addresses) == 1 and lengths[0] <= LONGEST_PIECE and addresses[0] != ZEROS:
            self.read_into(addresses[0], buffer, sources)
            return
        ranges, zeros = divide(addresses, lengths)
        for place, length in zeros:
            clear(buffer[place : place + length])
        first = 0  # of those in a row that are read with one call
        if not ranges or not self._is_simple(ranges.start, ranges.end):
            for index, (address, length, place) in enumerate(ranges):
                if self._is_simple(address, address + length):
                    continue
                self._read_vectors(ranges.part(first, index).in_pieces(), buffer)
                first = index + 1
                try:
                    self.read_into(address, buffer[place : place + length], sources)
                except MayWait as wait:
                    raise MayWait(wait.source, place + wait.done) from None
        self._read_vectors(ranges.part(first, len(ranges)).in_pieces(), buffer)
        self._check()

    def _is_simple(self, start: int, end: int) -> bool:
        """True where all that is between is read the quick way and waits for nobody."""
        return not (
            self.ways.only_pinned
            or self._readv.is_denied
            or self._has_other_ways(start, end)
            or self.ways.copy_on_write.overlaps(start, end)
        )

    def _has_other_ways(self, start: int, end: int) -> bool:
        """True where something between is read from a file, or has to be brought."""
        return self.ways.shared.overlaps(start, end) or self.ways.absent.overlaps(start, end)

    def _read_vectors(self, ranges: Ranges, buffer: memoryview) -> None:
        for first in range(0, len(ranges), _RANGES_AT_ONCE):
            some = ranges.part(first, first + _RANGES_AT_ONCE)
            for address, length, place in some.behind(self._readv.read_ranges(some, buffer)):
                # A page could not be had; of what is behind it nothing has been tried.
                self._read(address, buffer[place : place + length], quickly=True)

    def _read_private(self, address: int, buffer: memoryview) -> None:
        done = 0
        for start, end in self.ways.copy_on_write.runs(address, len(buffer)):
            low, high = start - address, end - address
            self._read(address + done, buffer[done:low], quickly=True)
            self._read(start, buffer[low:high], quickly=False)
            done = high
        self._read(address + done, buffer[done:], quickly=True)

    def _read(self, address: int, buffer: memoryview, quickly: bool) -> None:
        quickly = quickly and not (self.ways.only_pinned or self._readv.is_denied)
        most = _FORCED_AT_ONCE if quickly else len(buffer)
        done = 0
        while done < len(buffer):
            if quickly:
                done += self._readv.read(address + done, buffer[done:])
            if done < len(buffer):
                done += self._read_forced(address + done, buffer[done:][:most], was_tried=quickly)

    def check_pinned(self) -> None:
        """Raise where the process has another program by now than when this was opened.  EIO."""
        self._mem.check()

    def read_bytes(self, address: int, length: int, sources: Container[str] | None = None) -> bytes:
        buffer = bytearray(length)
        self.read_into(address, memoryview(buffer), sources)
        return bytes(buffer)

    def _read_forced(self, address: int, buffer: memoryview, was_tried: bool) -> int:
        """What /proc/PID/mem has from `address` on, or one page of zeros where it has none."""
        missing = self._first_missing(address, len(buffer))
        if missing == address and not (was_tried or self._readv.is_denied):
            count = self._readv.read(address, buffer[:_FORCED_AT_ONCE])
            if count and not self.ways.only_pinned:
                return count
            # It was brought in.  What was read may be another program's, and is not looked at.
            missing = self._first_missing(address, len(buffer))
        if missing != address:
            there = buffer if missing is None else buffer[: missing - address]
            if count := self._mem.read(address, there):
                return count
        length = min(len(buffer), PAGE_SIZE - address % PAGE_SIZE)
        clear(buffer[:length])
        self.lose(address)
        return length

    @property
    def is_readv_denied(self) -> bool:
        """True where all is read through /proc/PID/mem because there is no other way."""
        return self._readv.is_denied

    def lose(self, address: int) -> None:
        """Count the page at `address` as one that could not be had."""
        self.lost.add(address)

    def _first_missing(self, address: int, length: int) -> int | None:
        """Where the first page begins that somebody has to bring.

        Where /proc/PID/mem is the only way, disks may bring theirs; NotBrought where it is the
        very first page, and somebody else's to bring.
        """
        is_denied, absent = self._readv.is_denied, self.ways.absent
        first = absent.first(address, length, absent.disks if is_denied else ())
        if first is None:
            return None
        if is_denied and first[0] == address:
            raise NotBrought(self.pid, first[1])
        return first[0]


# Enough that a large PROT_NONE mapping costs few calls, little enough that the quick way is
# soon tried again.
_FORCED_AT_ONCE = 16 * PAGE_SIZE
_RANGES_AT_ONCE = 1024  # include/uapi/linux/uio.h, UIO_MAXIOV
