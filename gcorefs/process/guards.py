"""Finds guard pages (MADV_GUARD_INSTALL, since Linux 6.13), before any page is read.

Since glibc 2.42 the guard of a thread's stack lies in the mapping of that stack
(nptl/allocatestack.c).  The program itself gets a SIGSEGV there, and nobody can read such a page.
It has no content: zeros in the core are no loss, and the kernel's own core has a hole there
(mm/gup.c, get_dump_page).  So guards are counted by themselves, and not as unreadable pages.

A guard is a marker in the page tables (include/linux/swapops.h, PTE_MARKER_GUARD).  PAGEMAP_SCAN
shows it since Linux 6.15.  Before, and if it is installed later, it is known when a read of it
fails (memory.py).
"""

import enum
import functools
import mmap
import os
import re
from collections.abc import Iterable

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.selection import Range, whole_pages
from gcorefs.elfcore.vma import Vma
from gcorefs.kernel.pagemap_scan import GUARD
from gcorefs.kernel.proc import address_space
from gcorefs.process.pagemap import Pagemap

_MADV_GUARD_INSTALL = 102
_FLAGS_WITH_GUARD = re.compile(rb"^VmFlags:.* gu ", re.MULTILINE)


class Guards(enum.Enum):
    """Whether this kernel has guards, and whether it shows them."""

    NONE = "no guards"
    SHOWN = "VmFlags says which mappings may have some"
    ANYWHERE = "any mapping may have some"


@functools.cache
def guards_of_this_kernel() -> Guards:
    """Tests with a guard of our own: a version number does not show what was backported."""
    with mmap.mmap(-1, PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        try:
            memory.madvise(_MADV_GUARD_INSTALL)
        except OSError:
            return Guards.NONE
        is_shown = _FLAGS_WITH_GUARD.search(address_space.read_mm(os.getpid(), "smaps"))
    return Guards.SHOWN if is_shown else Guards.ANYWHERE


def guarded(
    taken: Iterable[tuple[Vma, int]], pagemap: Pagemap, guards: Guards | None = None
) -> list[Range]:
    """The ranges of guard pages of a process, in order and disjoint.

    `taken`: mappings in address order, each with the number of bytes wanted from its start.
    `guards`: None for those of this kernel.
    """
    guards = guards or guards_of_this_kernel()
    if guards is Guards.NONE:
        return []
    is_anywhere = guards is Guards.ANYWHERE
    possible = [
        (vma.start, vma.start + size)
        for vma, size in taken
        if vma.kind.has_guards or is_anywhere
        if size and not vma.kind.is_special
    ]
    # One scan for adjacent mappings: few of thousands have guards.
    return [
        found
        for start, end in whole_pages(possible)
        for found in zip(*pagemap.scan(start, end, all_of=GUARD) or ((), ()), strict=True)
    ]
