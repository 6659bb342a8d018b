"""The address space of a process as a whole, from /proc: auxv, mem, coredump_filter, VmPTE.

proc_pid_auxv(5), core(5), proc_pid_status(5).
"""

import os
import time
from dataclasses import dataclass

from gcorefs import tuning
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.filter import DEFAULT
from gcorefs.kernel.proc import procfile, task_stat, task_status

_LOOKS = 20
_NAP = 1e-3


def read_mm(tid: int, name: str) -> bytes:
    """A file of /proc/TID about its memory.  Empty files are errors.  ESRCH."""
    text = procfile.read(f"{tid}/{name}")
    if not text:
        raise without_text(tid, name)
    return text


def without_text(tid: int, name: str) -> OSError:
    """Why a file of /proc/TID about its memory was empty: ESRCH or ENODATA.

    Such a file is empty when the memory is gone.  execve(2) frees the memory too; a later read then
    finds text again.
    """
    path = f"{tid}/{name}"
    for _ in range(_LOOKS):
        if task_stat.stat(tid).is_exiting or procfile.has_text(path):
            return procfile.gone(path)
        time.sleep(_NAP)
    return procfile.empty(path)


def memory(tid: int, address: int, length: int) -> bytes:
    """What is at `address`; less of it, or nothing, if it cannot be read."""
    try:
        fd = procfile.open_file(f"{tid}/mem")
    except OSError:
        return b""
    try:
        return os.pread(fd, length, address)
    except (OSError, OverflowError):
        return b""
    finally:
        os.close(fd)


def coredump_filter(tid: int) -> int:
    """The kinds of mappings that a core should have (core(5)).  ESRCH.

    The kernel's default if the kernel is built without core dumps: then nobody can change it.
    """
    try:
        return int(read_mm(tid, "coredump_filter"), 16)
    except FileNotFoundError:
        return DEFAULT


def is_32_bit(tid: int) -> bool:
    """True if the program is a 32-bit program.  Its auxiliary vector shows that.

    The vector has pairs of words.  In 64-bit words, a type fills only the lower half.  ESRCH.
    """
    first = read_mm(tid, "auxv")[:8]
    return int.from_bytes(first, "little") >> 32 != 0


@dataclass(frozen=True, slots=True)
class PageTables:
    size: int
    """KiB.  Each table is one page, and has an entry for each page below it."""
    resident: int
    """KiB of memory that the process has in them."""
    anonymous: int
    """KiB of it that are private."""

    @property
    def are_many(self) -> bool:
        return self.size > tuning.now().many_tables

    @property
    def have_few_runs(self) -> bool:
        """True if they are many, and nearly empty or nearly full: a walk of them is long and finds
        few runs of pages."""
        return self.are_hardly_filled or self.are_nearly_full

    @property
    def are_hardly_filled(self) -> bool:
        """True if they are many, and nearly empty."""
        return self.are_many and self.resident < self.size * _HARDLY_FILLED

    @property
    def is_mostly_private(self) -> bool:
        """True of the memory that they lead to."""
        return 2 * self.anonymous > self.resident

    @property
    def are_nearly_full(self) -> bool:
        """True if they are many, and a walk of them finds long runs of pages."""
        return self.are_many and self.resident > self.size * _NEARLY_FULL


def page_tables(tid: int) -> PageTables | None:
    """The page tables of a process; None if it was killed: a read of its memory will report that.
    ESRCH."""
    found = task_status.status(tid)
    if "VmPTE" not in found:
        return None
    return PageTables(*(int(found[key].split()[0]) for key in ("VmPTE", "VmRSS", "RssAnon")))


_ENTRIES = PAGE_SIZE // 8
_HARDLY_FILLED = _ENTRIES // 4
_NEARLY_FULL = _ENTRIES * 7 // 8
