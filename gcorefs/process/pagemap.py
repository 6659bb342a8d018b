"""Which pages of a process are in its page tables or swapped out
(Documentation/admin-guide/mm/pagemap.rst).

Nothing is touched by asking.  Linux 6.7 and later look through the page tables themselves and
tell of runs (PAGEMAP_SCAN); before, each page has an entry to be read: 8 bytes for 4 KiB.

Where /proc does not show the file, nothing is known of any page (Unknown): all is read, and
every page that somebody else might have to bring is taken for one that is not there.
"""

import contextlib
import errno
import os
import struct
from array import array
from collections.abc import Sequence
from threading import Thread

from gcorefs.arch import HOST
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.segments import Column
from gcorefs.kernel import pagemap_scan
from gcorefs.kernel.pagemap_scan import PFNZERO, PRESENT, SWAPPED, join_runs
from gcorefs.kernel.proc import address_space, procfile
from gcorefs.process.errors import named
from gcorefs.process.threads import NoThread, start_thread

_ENTRY_SIZE = 8
# Of the highest byte of an entry: bit 63 is present, 62 swapped, 61 a page of a file or of shared
# memory, 56 mapped by this process alone.  The kernel's page of zeros has bit 63 only.
_IS_PRESENT = 0x80
_POPULATED = bytes(1 if byte & 0xC0 else 0 for byte in range(256))
ANONYMOUS = bytes(1 if byte & 0xC0 and not byte & 0x20 else 0 for byte in range(256))
"""Makes of Pagemap.flags a byte for each page: 1 where it is populated, and private."""
NOT_EXCLUSIVE = bytes(1 if byte & 0xC0 and not byte & 0x21 else 0 for byte in range(256))
"""The same, 1 where another process maps it as well, or it is swapped out."""
_ENTRIES_AT_ONCE = 1 << 17
# Bits 0 to 4 of an entry that is swapped out are the type of its swap, the rest its offset
# (fs/proc/task_mmu.c, pte_to_pagemap_entry).  The last type means a marker (include/linux/swap.h,
# SWP_PTE_MARKER), whose offset says of what (swapops.h).
_SWAP_TYPE = 0x1F
_PTE_MARKER = 31
_POISONED = 1 << (5 + 1)


class Pagemap:
    """Of the process whose thread `tid` is."""

    why_unknown = ""
    """Why nothing is known of any page, empty where it is."""

    def __init__(self, tid: int) -> None:
        """ESRCH, and whatever else procfile.py has."""
        self._file = procfile.open_file(f"{tid}/pagemap")
        self._ahead: Thread | None = None
        self._all: tuple[Column, Column] | None = None
        # Every page has an entry, mapped or not.  In an empty file that lies over this one all
        # memory would be holes.
        if not os.pread(self._file, _ENTRY_SIZE, 0):
            raise address_space.without_text(tid, "pagemap")

    def look_ahead(self) -> None:
        """Begin to find all runs, of everything that is mapped.

        Looking through many page tables takes a third of the time of reading smaps or more, which
        does so too; both can be done at once.
        """
        with contextlib.suppress(NoThread):
            self._ahead = start_thread("gcorefs-pagemap", self._find_all)

    def _find_all(self) -> None:
        with contextlib.suppress(OSError):  # whoever asks for runs will see it again
            self._all = self._scan_populated(0, HOST.address_space_end)

    def flags(self, address: int, length: int) -> bytes:
        """The highest byte of the entry of each page that the range touches.

        Fewer than there are pages where the address space ends, or is gone.
        """
        first = address // PAGE_SIZE
        count = -(-(address + length) // PAGE_SIZE) - first
        entries = os.pread(self._file, count * _ENTRY_SIZE, first * _ENTRY_SIZE)
        return entries[_ENTRY_SIZE - 1 :: _ENTRY_SIZE]

    def populated(self, address: int, length: int) -> bytes:
        """A byte for each page that the range touches: 1 where it is populated, else 0.

        Fewer than there are pages where the address space is gone.
        """
        return self.flags(address, length).translate(_POPULATED)

    def is_present(self, address: int, length: int) -> bool:
        """True where every page that the range touches is in memory just now."""
        flags = self.flags(address, length)
        count = -(-(address + length) // PAGE_SIZE) - address // PAGE_SIZE
        return len(flags) == count and min(flags) >= _IS_PRESENT

    def runs(self, ranges: Sequence[tuple[int, int]]) -> tuple[Column, Column]:
        """Starts and ends of the runs of populated pages of some ranges, in order.

        The ranges lie on page borders and ascend; what lies outside may be told of too.  A page
        that was only ever read is the kernel's page of zeros and counts as not populated,
        where the kernel tells.  Nothing where the address space is gone.
        """
        if self._ahead is not None:
            self._ahead.join()
            if self._all is not None and ranges[-1][1] <= HOST.address_space_end:
                return self._all
        found = self._scan_populated(ranges[0][0], ranges[-1][1])
        if found is not None:
            return found
        starts, ends = array("Q"), array("Q")
        for start, end in ranges:
            self._read_runs(start, end, starts, ends)
        return starts, ends

    def _scan_populated(self, start: int, end: int) -> tuple[Column, Column] | None:
        return self.scan(start, end, any_of=PRESENT | SWAPPED, none_of=PFNZERO)

    def scan(
        self, start: int, end: int, all_of: int = 0, any_of: int = 0, none_of: int = 0
    ) -> tuple[Column, Column] | None:
        """Starts and ends of the runs of pages that are what these bits say, in order.

        None where this kernel does not tell.
        """
        return pagemap_scan.scan(self._file, start, end, all_of, any_of, none_of)

    def poisoned(self, start: int, end: int) -> list[tuple[int, int]]:
        """Where a range has pages that UFFDIO_POISON made unreadable; none without CAP_SYS_ADMIN,
        which it takes to be shown the entries in full."""
        found: list[tuple[int, int]] = []
        for first, last in zip(*self.scan(start, end, all_of=SWAPPED) or ((), ()), strict=True):
            entries = os.pread(
                self._file,
                (last - first) // PAGE_SIZE * _ENTRY_SIZE,
                first // PAGE_SIZE * _ENTRY_SIZE,
            )
            for index, (entry,) in enumerate(struct.iter_unpack("<Q", entries)):
                if entry & _SWAP_TYPE == _PTE_MARKER and entry & _POISONED:
                    found.append((first + index * PAGE_SIZE, first + (index + 1) * PAGE_SIZE))
        return found

    def _read_runs(self, start: int, end: int, starts: Column, ends: Column) -> None:
        step = _ENTRIES_AT_ONCE * PAGE_SIZE
        for at in range(start, end, step):
            length = min(step, end - at)
            flags = self.populated(at, length)
            own_starts, own_ends = array("Q"), array("Q")
            last = 0
            while (first := flags.find(1, last)) >= 0:
                last = flags.find(0, first)
                if last < 0:
                    last = len(flags)
                own_starts.append(at + first * PAGE_SIZE)
                own_ends.append(at + last * PAGE_SIZE)
            join_runs(starts, ends, own_starts, own_ends)
            if len(flags) * PAGE_SIZE < length:
                return

    def __del__(self) -> None:
        # Not a close() that somebody calls: a reader in another thread may be in the middle
        # of a pread, and the number of a closed file is soon another file's.
        if hasattr(self, "_file"):
            os.close(self._file)


class Unknown(Pagemap):
    """The same where /proc does not show it."""

    def __init__(self, why: str) -> None:
        self.why_unknown = why

    def look_ahead(self) -> None:
        pass

    def flags(self, address: int, length: int) -> bytes:
        """Each page may be in memory, and may be another process's as well."""
        first = address // PAGE_SIZE
        return bytes((_IS_PRESENT,)) * (-(-(address + length) // PAGE_SIZE) - first)

    def populated(self, address: int, length: int) -> bytes:
        first = address // PAGE_SIZE
        return bytes(-(-(address + length) // PAGE_SIZE) - first)

    def is_present(self, address: int, length: int) -> bool:
        return False

    def runs(self, ranges: Sequence[tuple[int, int]]) -> tuple[Column, Column]:
        """All of it: what is not known to be a hole is read."""
        return array("Q", [start for start, _ in ranges]), array("Q", [end for _, end in ranges])

    def scan(
        self, start: int, end: int, all_of: int = 0, any_of: int = 0, none_of: int = 0
    ) -> None:
        return None


_NOT_SHOWN = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENODATA)


def open_pagemap(tid: int) -> Pagemap:
    """What /proc shows of the process whose thread `tid` is.  ESRCH."""
    try:
        return Pagemap(tid)
    except OSError as error:
        if error.errno not in _NOT_SHOWN:
            raise
        return Unknown(named(error))
