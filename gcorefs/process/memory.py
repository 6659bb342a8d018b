"""Reads the memory of a process that stands still.

There are three ways to read a page:

- process_vm_readv(2) is fast, and reads many ranges with one call.  It stops at a page that it
  cannot read; that page is tried again through /proc/PID/mem.
- /proc/PID/mem (mem.py) also reads PROT_NONE mappings (FOLL_FORCE in fs/proc/base.c, mem_rw),
  and does not copy pages that are shared since a fork(2) (copy_on_write.py).
- Shared memory without a name is read from its file (shmem.py).

A page that no way can read ([vvar], [vsyscall], pages past the end of a mapped file) is zeros
here and is counted; the kernel's own cores have a hole there.  A guard is zeros and no loss
(guards.py).

/proc/PID/mem is not used for a page that somebody must supply (page_providers.py), unless that is a
disk, which always answers: only process_vm_readv(2) reads it, so that a PROT_NONE mapping of a file
of a server is zeros.  If process_vm_readv(2) is denied (readv.py), such a page is an error.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass, field

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.columns import Column
from gcorefs.elfcore.segments import ZEROS
from gcorefs.process.child_memory import ChildMemory, not_forked
from gcorefs.process.copy_on_write import CopyOnWrite
from gcorefs.process.forkable import Forkable
from gcorefs.process.mem import MemFile
from gcorefs.process.page_providers import MayWait, NotBrought, PageProviders
from gcorefs.process.pagemap import ANONYMOUS, Pagemap, runs_in
from gcorefs.process.ranges import LONGEST_PIECE, Ranges, clear, divide
from gcorefs.process.readv import Readv
from gcorefs.process.shmem import Shmem
from gcorefs.process.tracking import Tracking
from gcorefs.process.unreadable_pages import UnreadablePages


@dataclass(frozen=True, slots=True)
class Ways:
    """The facts that decide, before every read, which way each page is read."""

    shmem: Shmem
    providers: PageProviders
    copy_on_write: CopyOnWrite
    pagemap: Pagemap
    only_pinned: bool = False
    """Some thread did not stop and may still call execve(2).  process_vm_readv(2) would then read
    the new program, under our credentials; the open mem file still means the old program, and
    reads nothing any more (fs/proc/base.c, mem_rw)."""
    forkable: Forkable = field(default_factory=Forkable)
    """Memory that a child of the process would have for itself, if the stop is to fork."""
    tracking: Tracking = field(default_factory=Tracking)
    """Memory in which the kernel marks what is written, if the stop is for a copy ahead of it."""


class Memory:
    """The memory of one process, read through one of its threads while it is held."""

    def __init__(
        self,
        mem: MemFile,
        ways: Ways,
        lost: UnreadablePages,
        check: Callable[[], None],
        fork: Callable[[], ChildMemory] = not_forked,
    ) -> None:
        """`check` is called after every read, and raises if the read came too late to be true.

        `lost` collects the pages that could not be read and are zeros.  `fork` makes a child that
        keeps the memory (hold=fork).  NotForked.
        """
        self.fork = fork
        self.unreadable_pages = lost
        self.ways = ways
        self._check = check
        self.mem = mem
        self._readv = Readv(mem.pid, mem.tid)

    @property
    def pid(self) -> int:
        return self.mem.pid

    def read_into(
        self, address: int, buffer: memoryview, sources: Container[str] | None = None
    ) -> None:
        """Fill `buffer` (writable, bytes) from `address`.  EIO: died or let go.

        MayWait: the bytes up to a page are filled, and a source that is not in `sources` must
        supply that page (None: wait for every source).
        """
        if sources is not None:
            first = self.ways.providers.first(address, len(buffer), sources)
            if first is not None:
                done = first[0] - address
                if done:
                    self.read_into(address, buffer[:done])
                raise MayWait(first[1], done)
        done = self.ways.shmem.read_into(address, buffer)
        if done and self.ways.shmem.is_private(address):
            self._read_own(address, buffer[:done])
        self._read_brought(address + done, buffer[done:])
        self._check()

    def _read_brought(self, address: int, buffer: memoryview) -> None:
        """Read all but pages that the read would make for good (page_providers.py).  These are
        zeros, and lost."""
        done = 0
        for start, end in self.ways.providers.never_read(address, len(buffer)):
            low, high = start - address, end - address
            self._read_private(address + done, buffer[done:low])
            clear(buffer[low:high])
            for page in range(start // PAGE_SIZE * PAGE_SIZE, end, PAGE_SIZE):
                self.unreadable_pages.add(page)
            done = high
        self._read_private(address + done, buffer[done:])

    def _read_own(self, address: int, buffer: memoryview) -> None:
        """Replace the bytes of a file by those of the pages that the process has written."""
        end = address + len(buffer)
        first = address // PAGE_SIZE * PAGE_SIZE
        own = self.ways.pagemap.flags(address, len(buffer)).translate(ANONYMOUS)
        for one, other in runs_in(own, 0, len(own)):
            low = max(address, first + one * PAGE_SIZE)
            high = min(end, first + other * PAGE_SIZE)
            self._read_private(low, buffer[low - address : high - address])

    def read_at_once(self, address: int, buffer: memoryview) -> bool:
        """Fill `buffer` from `address`, if every page is in memory and the read need not wait.

        False: it was not filled; use the other functions.  EIO: died or let go.
        """
        end = address + len(buffer)
        if self.ways.only_pinned or self._has_other_ways(address, end):
            return False
        try:
            if not self.ways.pagemap.is_present(address, len(buffer)):
                return False
            count = self._read_present(address, buffer)
        except OSError:  # the other functions meet it again
            return False
        self._check()
        return count == len(buffer)

    def _read_present(self, address: int, buffer: memoryview) -> int:
        """How many bytes from the beginning could be read.  All pages are in memory."""
        if self._readv.is_denied:
            return self.mem.read(address, buffer)
        for start, end in self.ways.copy_on_write.runs(address, len(buffer)):
            if (start, end) == (address, address + len(buffer)):
                return self.mem.read(address, buffer)
            return 0
        return self._readv.read(address, buffer)

    def read_ranges(
        self,
        addresses: Column,
        lengths: Column,
        buffer: memoryview,
        sources: Container[str] | None = None,
    ) -> None:
        """Fill `buffer` from ascending ranges of memory, one behind the other.  A range at ZEROS
        is zeros.

        Like read_into, but with as few system calls as possible.
        """
        if len(addresses) == 1 and lengths[0] <= LONGEST_PIECE and addresses[0] != ZEROS:
            self.read_into(addresses[0], buffer, sources)
            return
        ranges, zeros = divide(addresses, lengths)
        for place, length in zeros:
            clear(buffer[place : place + length])
        self.read_places(ranges, buffer, sources)

    def read_places(
        self, ranges: Ranges, buffer: memoryview, sources: Container[str] | None = None
    ) -> None:
        """Read each of some ranges to its place in `buffer`.

        Like read_into.  MayWait: `done` is the place of the page, and all ranges before it are
        read.
        """
        self._read_parts(ranges, buffer, sources)
        self._check()

    def _read_parts(
        self, ranges: Ranges, buffer: memoryview, sources: Container[str] | None
    ) -> None:
        """Read the ranges in order, in parts that are simple, or single.

        One range of a thousand may not be simple.  To ask for each of them would take as long as to
        read them all.
        """
        if not ranges or self._is_simple(ranges.start, ranges.end):
            self._read_vectors(ranges.in_pieces(), buffer)
        elif len(ranges) > 1:
            middle = len(ranges) // 2
            self._read_parts(ranges.part(0, middle), buffer, sources)
            self._read_parts(ranges.part(middle, len(ranges)), buffer, sources)
        else:
            ((address, length, place),) = ranges
            try:
                self.read_into(address, buffer[place : place + length], sources)
            except MayWait as wait:
                raise MayWait(wait.source, place + wait.done) from None

    def _is_simple(self, start: int, end: int) -> bool:
        """True if process_vm_readv(2) reads all between two addresses and waits for nobody."""
        return not (
            self.ways.only_pinned
            or self._readv.is_denied
            or self._has_other_ways(start, end)
            or self.ways.copy_on_write.overlaps(start, end)
        )

    def _has_other_ways(self, start: int, end: int) -> bool:
        """True if a page between two addresses is read from a file or must be supplied."""
        return self.ways.shmem.overlaps(start, end) or self.ways.providers.overlaps(start, end)

    def _read_vectors(self, ranges: Ranges, buffer: memoryview) -> None:
        first, most = 0, _RANGES_AT_ONCE
        while first < len(ranges):
            some = ranges.part(first, first + most)
            index, done = some.behind(self._readv.read_ranges(some, buffer))
            first += index
            most = min(2 * most, _RANGES_AT_ONCE)
            if index < len(some):
                # A page could not be read; nothing behind it has been tried.
                address, length, place = some[index]
                self._read(address + done, buffer[place : place + length][done:], quickly=True)
                first += 1
                most = _RANGES_AFTER_A_FAULT

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
        """EIO if the process has another program now than when this memory was opened."""
        self.mem.check()

    def read_bytes(self, address: int, length: int, sources: Container[str] | None = None) -> bytes:
        buffer = bytearray(length)
        self.read_into(address, memoryview(buffer), sources)
        return bytes(buffer)

    def _read_forced(self, address: int, buffer: memoryview, was_tried: bool) -> int:
        """Read from `address` through /proc/PID/mem, or clear one page if that reads nothing.

        The result is the number of bytes.
        """
        missing = self._first_missing(address, len(buffer))
        if missing == address and not (was_tried or self._readv.is_denied):
            count = self._readv.read(address, buffer[:_FORCED_AT_ONCE])
            if count and not self.ways.only_pinned:
                return count
            # The page is in memory now.  The bytes may be of another program, and are not used.
            missing = self._first_missing(address, len(buffer))
        if missing == address:  # process_vm_readv(2) reads nothing of a PROT_NONE mapping
            missing = self._first_missing(address, len(buffer), self.ways.providers.disks)
        if missing != address:
            there = buffer if missing is None else buffer[: missing - address]
            if count := self.mem.read(address, there):
                return count
        length = min(len(buffer), PAGE_SIZE - address % PAGE_SIZE)
        clear(buffer[:length])
        self.lose(address)
        return length

    @property
    def is_readv_denied(self) -> bool:
        """True if everything is read through /proc/PID/mem because there is no other way."""
        return self._readv.is_denied

    def lose(self, address: int) -> None:
        """Count the page at `address` as unreadable, unless it is a guard."""
        if self.ways.pagemap.is_guard(address):
            self.unreadable_pages.add_guard(address)
        else:
            self.unreadable_pages.add(address)

    def _first_missing(self, address: int, length: int, sources: Container[str] = ()) -> int | None:
        """The address of the first page that somebody must supply who is not in `sources`.

        If /proc/PID/mem is the only way, pages that a disk supplies do not count.  NotBrought: it
        is the only way, and the very first page is one that another source must supply.
        """
        is_denied, absent = self._readv.is_denied, self.ways.providers
        first = absent.first(address, length, absent.disks if is_denied else sources)
        if first is None:
            return None
        if is_denied and first[0] == address:
            raise NotBrought(self.pid, first[1])
        return first[0]


# Large enough that a large PROT_NONE mapping costs few calls, and small enough that
# process_vm_readv(2) is soon tried again.
_FORCED_AT_ONCE = 16 * PAGE_SIZE
_RANGES_AT_ONCE = 1024  # include/uapi/linux/uio.h, UIO_MAXIOV
_RANGES_AFTER_A_FAULT = 16
"""There may be more such pages nearby, and each ends a call."""
