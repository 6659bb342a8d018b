"""Which pages of a process are in its page tables or swapped out
(Documentation/admin-guide/mm/pagemap.rst).

A read of pagemap does not change any page.  Since Linux 6.7 the kernel walks the page tables and
returns runs (PAGEMAP_SCAN); before, we read an entry for each page: 8 bytes for 4 KiB.  An entry
does not tell whether the page is the kernel's page of zeros.  But it has the number of the page
frame if we have CAP_SYS_ADMIN, and an entry of our own shows the number of that page.

If /proc does not show the file, nothing is known about any page (Unknown).  Then all pages are
read, and a page that another process may have to supply counts as absent.
"""

import contextlib
import errno
import functools
import os
import struct
from array import array
from collections.abc import Callable, Iterator

from gcorefs.arch import HOST
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.columns import Column
from gcorefs.kernel import own_memory, pagemap_scan
from gcorefs.kernel.open_file import OpenFile
from gcorefs.kernel.pagemap_scan import FILE, GUARD, PFNZERO, PRESENT, SWAPPED, join_runs
from gcorefs.kernel.proc import address_space, procfile
from gcorefs.kernel.soft_dirty import MARK
from gcorefs.process.errors import named
from gcorefs.process.page_walk import by_all_cores
from gcorefs.process.runs import Runs
from gcorefs.process.threads import NoThread, Running, start_thread

_ENTRY_SIZE = 8
# Bits in the highest byte of an entry: 63 present, 62 swapped, 61 a page of a file or of shared
# memory, 56 mapped only by this process.  The kernel's page of zeros has only bit 63.
_IS_PRESENT = 0x80
_POPULATED = bytes(1 if byte & 0xC0 else 0 for byte in range(256))
ANONYMOUS = bytes(1 if byte & 0xC0 and not byte & 0x20 else 0 for byte in range(256))
"""Translates Pagemap.flags to a byte for each page: 1 if the page is populated and private."""
NOT_EXCLUSIVE = bytes(1 if byte & 0xC0 and not byte & 0x21 else 0 for byte in range(256))
"""The same, but 1 only if another process maps the page too, or if it is swapped out."""
_ENTRIES_AT_ONCE = 1 << 17
_IS_SWAPPED = bytes(byte >> 6 & 1 for byte in range(256))
FRAME = (1 << 55) - 1
"""The number of the page frame in an entry, if the page is present and we may see it."""
# In the entry of a swapped-out page, bits 0 to 4 are the swap type and the rest is the swap offset
# (fs/proc/task_mmu.c, pte_to_pagemap_entry).  The last type is a marker (include/linux/swap.h,
# SWP_PTE_MARKER); its offset tells the kind of marker (swapops.h).
_SWAP_TYPE = 0x1F
_PTE_MARKER = 31
_POISONED = 1 << (5 + 1)
_GUARD_MARKER = 1 << (5 + 2)
_SWAPPED_OUT = 1 << 62
_GUARD = 1 << 58
"""Since Linux 6.15."""


Run = tuple[int, int]
"""The first page, and the page behind the last page."""


def runs_in(pages: bytes, low: int, high: int) -> Iterator[Run]:
    """The runs of 1 between two indexes."""
    while (first := pages.find(1, low, high)) >= 0:
        low = pages.find(0, first, high)
        if low < 0:
            low = high
        yield first, low


def append_runs(runs: tuple[Column, Column], address: int, pages: bytes) -> None:
    """Append the runs of 1 in `pages`, which are the pages from `address` on."""
    starts, ends = array("Q"), array("Q")
    for first, last in runs_in(pages, 0, len(pages)):
        starts.append(address + first * PAGE_SIZE)
        ends.append(address + last * PAGE_SIZE)
    join_runs(*runs, starts, ends)


_NO_RUNS: tuple[Column, Column] = array("Q"), array("Q")


class Pagemap:
    """Of the process whose thread `tid` is."""

    why_unknown = ""
    """Why nothing is known about any page; empty if pagemap is readable."""

    def __init__(self, tid: int) -> None:
        """ESRCH, and whatever else procfile.py has."""
        self._file = OpenFile(procfile.open_file(f"{tid}/pagemap"))
        self._ahead: Running | None = None
        self._all: tuple[Column, Column] | None = None
        # Every page has an entry, mapped or not.  If an empty file is mounted over pagemap, all
        # memory would look like holes.
        if not os.pread(self._file.number, _ENTRY_SIZE, 0):
            raise address_space.without_text(tid, "pagemap")

    def look_ahead(self, known: tuple[Column, Column] = _NO_RUNS) -> None:
        """Start to find the runs of all mappings, in a thread.  `known`: runs that are populated.

        A walk of many page tables takes a third of the time of smaps, which walks them too, or
        more.  Both can run at the same time.
        """
        with contextlib.suppress(NoThread):
            self._ahead = start_thread("gcorefs-pagemap", self.find_all, known)

    def find_all(self, known: tuple[Column, Column]) -> None:
        """Find the runs of all mappings now.  `known`: runs that are populated."""
        starts, ends = array("Q"), array("Q")
        at = 0
        with contextlib.suppress(OSError):  # `runs` meets the error again
            for start, end in zip(*known, strict=True):
                if (between := self.populated_runs(at, start)) is None:
                    return
                join_runs(starts, ends, *between)
                join_runs(starts, ends, array("Q", (start,)), array("Q", (end,)))
                at = end
            if (behind := self.populated_runs(at, HOST.address_space_end)) is not None:
                join_runs(starts, ends, *behind)
                self._all = starts, ends

    def flags(self, address: int, length: int) -> bytes:
        """The highest byte of the entry of each page that the range touches.

        Fewer bytes than pages if the address space ends or is gone.
        """
        return self.entries(address, length)[_ENTRY_SIZE - 1 :: _ENTRY_SIZE]

    def entries(self, address: int, length: int) -> bytes:
        """The entry of each page that the range touches, 8 bytes each.  Fewer if the address space
        ends or is gone."""
        first = address // PAGE_SIZE
        count = -(-(address + length) // PAGE_SIZE) - first
        return os.pread(self._file.number, count * _ENTRY_SIZE, first * _ENTRY_SIZE)

    def populated(self, address: int, length: int) -> bytes:
        """A byte for each page that the range touches: 1 if it is populated, else 0.

        Fewer bytes than pages if the address space is gone.
        """
        return self.flags(address, length).translate(_POPULATED)

    def _not_zeros(self, address: int, length: int) -> bytes:
        """The same, but 0 for the kernel's page of zeros too, if the kernel tells."""
        entries = self.entries(address, length)
        found = bytearray(entries[_ENTRY_SIZE - 1 :: _ENTRY_SIZE].translate(_POPULATED))
        for zeros in _entries_of_zeros():
            at = entries.find(zeros)
            while at >= 0:
                if at % _ENTRY_SIZE == 0:
                    found[at // _ENTRY_SIZE] = 0
                at = entries.find(zeros, at + 1)
        return bytes(found)

    def is_present(self, address: int, length: int) -> bool:
        """True if every page that the range touches is in memory now."""
        flags = self.flags(address, length)
        count = -(-(address + length) // PAGE_SIZE) - address // PAGE_SIZE
        return len(flags) == count and min(flags) >= _IS_PRESENT

    def runs(self, ranges: Runs) -> Runs:
        """Starts and ends of the runs of populated pages of some ranges, in order.

        The ranges are in ascending order, and their borders are multiples of the page size.  The
        result may have runs outside of them.  A page that was only read is the kernel's page of
        zeros; it counts as not populated if the kernel tells.  Empty if the address space is gone.
        """
        if self._ahead is not None:
            self._ahead.join()
        if self._all is not None and ranges[1][-1] <= HOST.address_space_end:
            return self._all
        found = by_all_cores(self.populated_runs, ranges)
        if found is not None:
            return found
        starts, ends = array("Q"), array("Q")
        for start, end in zip(*ranges, strict=True):
            self._read_runs(start, end, self._not_zeros, (starts, ends))
        return starts, ends

    def mapped(self, start: int, end: int) -> tuple[Column, Column]:
        """Starts and ends of the runs of populated pages of a range, in order.  The kernel's page
        of zeros is one of them.  Empty if the kernel does not tell."""
        found = self.scan(start, end, any_of=PRESENT | SWAPPED)
        if found is None:
            found = array("Q"), array("Q")
            self._read_runs(start, end, self.populated, found)
        return found

    def written(self, start: int, end: int) -> tuple[Column, Column]:
        """Starts and ends of the runs of pages of a private mapping that are not those of its file,
        in order.  Empty if the address space is gone."""
        found = self.scan(start, end, any_of=PRESENT | SWAPPED, none_of=FILE)
        if found is None:
            found = array("Q"), array("Q")
            self._read_runs(start, end, self._written, found)
        return found

    def _written(self, address: int, length: int) -> bytes:
        return self.flags(address, length).translate(ANONYMOUS)

    def populated_runs(self, start: int, end: int) -> tuple[Column, Column] | None:
        """Starts and ends of the runs of populated pages between two addresses, in order; the
        kernel's page of zeros is none of them, nor is a guard, if the kernel tells.  None if this
        kernel has no PAGEMAP_SCAN."""
        nothing = PFNZERO | (GUARD if scans_guards() else 0)
        return self.scan(start, end, any_of=PRESENT | SWAPPED, none_of=nothing)

    def scan(
        self, start: int, end: int, all_of: int = 0, any_of: int = 0, none_of: int = 0
    ) -> tuple[Column, Column] | None:
        """Starts and ends of the runs of pages that match these bits, in order.

        None if this kernel does not support the request.
        """
        return pagemap_scan.scan(self._file.number, start, end, all_of, any_of, none_of)

    def has_swapped_pages(self, start: int, end: int) -> bool:
        """True if a page of the range is swapped out, or if nothing is known about it."""
        found = self.scan(start, end, all_of=SWAPPED)
        if found is not None:
            return bool(found[0])
        step = _ENTRIES_AT_ONCE * PAGE_SIZE
        return any(
            any(self.flags(at, min(step, end - at)).translate(_IS_SWAPPED))
            for at in range(start, end, step)
        )

    def poisoned(self, start: int, end: int) -> list[tuple[int, int]]:
        """The ranges of pages that UFFDIO_POISON made unreadable.  Empty without CAP_SYS_ADMIN,
        because then the kernel does not show the entries in full."""
        found: list[tuple[int, int]] = []
        for first, last in zip(*self.scan(start, end, all_of=SWAPPED) or ((), ()), strict=True):
            entries = self.entries(first, last - first)
            for index, (entry,) in enumerate(struct.iter_unpack("<Q", entries)):
                if entry & _SWAP_TYPE == _PTE_MARKER and entry & _POISONED:
                    found.append((first + index * PAGE_SIZE, first + (index + 1) * PAGE_SIZE))
        return found

    def is_guard(self, address: int) -> bool:
        """True if the page at `address` is a guard (guards.py).  Before Linux 6.15 only with
        CAP_SYS_ADMIN.  False also if the address space is gone."""
        return is_guard(int.from_bytes(self.entries(address, 1), "little"))

    @staticmethod
    def _read_runs(
        start: int, end: int, flags_of: Callable[[int, int], bytes], runs: tuple[Column, Column]
    ) -> None:
        """Append the runs of pages for which `flags_of` has a 1."""
        step = _ENTRIES_AT_ONCE * PAGE_SIZE
        for at in range(start, end, step):
            length = min(step, end - at)
            flags = flags_of(at, length)
            append_runs(runs, at, flags)
            if len(flags) * PAGE_SIZE < length:
                return

    def __getstate__(self) -> dict[str, object]:
        """For another process, which has no use for what was found ahead."""
        return {**self.__dict__, "_ahead": None, "_all": None}


def is_guard(entry: int) -> bool:
    """True for the entry of a guard page."""
    is_marker = entry & _SWAPPED_OUT and entry & _SWAP_TYPE == _PTE_MARKER
    return bool(entry & _GUARD or (is_marker and entry & _GUARD_MARKER))


@functools.cache
def _entries_of_zeros() -> tuple[bytes, ...]:
    """The entries that the kernel's page of zeros may have, with and without the bit for
    soft-dirty.  Empty if the kernel does not show us the numbers of page frames."""
    try:
        with own_memory.page_of_zeros() as address, open("/proc/self/pagemap", "rb") as file:
            entry = os.pread(file.fileno(), _ENTRY_SIZE, address // PAGE_SIZE * _ENTRY_SIZE)
    except OSError:
        return ()
    found = int.from_bytes(entry, "little")
    if not found & FRAME:
        return ()
    return tuple(struct.pack("<Q", bits) for bits in (found | MARK, found & ~MARK))


@functools.cache
def scans_guards() -> bool:
    """True if PAGEMAP_SCAN knows guards (since Linux 6.15)."""
    try:
        return Pagemap(os.getpid()).scan(0, PAGE_SIZE, all_of=GUARD) is not None
    except OSError:
        return False


def shows_page_frames() -> bool:
    """True if we see the numbers of page frames."""
    return bool(_entries_of_zeros())


class Unknown(Pagemap):
    """A Pagemap for a process whose pagemap /proc does not show."""

    def __init__(self, why: str) -> None:
        self.why_unknown = why

    def find_all(self, known: tuple[Column, Column]) -> None:
        pass

    def look_ahead(self, known: tuple[Column, Column] = _NO_RUNS) -> None:
        pass

    def flags(self, address: int, length: int) -> bytes:
        """Every page may be in memory and may be shared with another process."""
        first = address // PAGE_SIZE
        return bytes((_IS_PRESENT,)) * (-(-(address + length) // PAGE_SIZE) - first)

    def populated(self, address: int, length: int) -> bytes:
        first = address // PAGE_SIZE
        return bytes(-(-(address + length) // PAGE_SIZE) - first)

    def is_present(self, address: int, length: int) -> bool:
        return False

    def runs(self, ranges: Runs) -> Runs:
        """All ranges: no hole is known, so everything is read."""
        return ranges

    def has_swapped_pages(self, start: int, end: int) -> bool:
        return True

    def is_guard(self, address: int) -> bool:
        return False

    def scan(
        self, start: int, end: int, all_of: int = 0, any_of: int = 0, none_of: int = 0
    ) -> None:
        return None


_NOT_SHOWN = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENODATA)


def open_pagemap(tid: int) -> Pagemap:
    """The pagemap of the process of thread `tid`, or Unknown if /proc does not show it.  ESRCH."""
    try:
        return Pagemap(tid)
    except OSError as error:
        if error.errno not in _NOT_SHOWN:
            raise
        return Unknown(named(error))
