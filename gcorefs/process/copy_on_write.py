"""Pages that a read by process_vm_readv(2) would copy.

After a fork(2), parent and child share the pages of private memory until one of them writes.
process_vm_readv(2) pins the pages that it reads (FOLL_PIN), and a pinned page must be exclusive to
the process.  If it may not be, the kernel first makes a copy of it (mm/gup.c, gup_must_unshare).
So if we read a child of a 10 GiB server in this way, the machine loses 10 GiB for good.
/proc/PID/mem does not pin (mm/memory.c, __access_remote_vm), so these pages are read through it.

/proc/PID/smaps tells which mappings have shared pages, and /proc/PID/pagemap tells which pages
are shared.  We ask pagemap only for ranges that we are about to read in these mappings.  Also:

- The kernel copies a page that KSM has merged even if no other process has it any more, and
  pagemap does not tell.  So no page counts as exclusive in a mapping that KSM may merge
  (madvise(2), MADV_MERGEABLE).
- pagemap does not tell whether a swapped-out page is shared.  So no page counts as exclusive in a
  mapping that has shared pages and swapped-out pages.
- A huge page is one folio.  While another process maps any part of it, the kernel copies also a
  page that only this process maps (mm/memory.c, wp_can_reuse_anon_folio).  So all pages near a
  shared page, as far as a folio reaches, count as shared.

Two cases are not seen, and are copied: a huge page of which this process alone maps one part and
another process alone maps another part; a page that only this process has in memory while another
process has it swapped out.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from gcorefs.arch.page import HUGE_PAGE_SIZE, PAGE_SIZE
from gcorefs.elfcore.elf import page_up
from gcorefs.elfcore.vma import Vma
from gcorefs.process.pagemap import ANONYMOUS, NOT_EXCLUSIVE, Pagemap, Run, runs_in

REACH = HUGE_PAGE_SIZE // PAGE_SIZE - 1
"""Pages from the first to the last of the largest folio.  After mremap(2) a folio may begin at
any page."""


class CopyOnWrite:
    """The pages of a process that the kernel would copy for a pin."""

    def __init__(self, vmas: Sequence[Vma], pagemap: Pagemap) -> None:
        found = [
            vma
            for vma in vmas
            if (vma.shared and (vma.anonymous or vma.swapped)) or vma.kind.hides_sharing
        ]
        self._mappings = _Borders(found)
        self._untold = _Borders([vma for vma in found if vma.swapped or vma.kind.is_mergeable])
        self._pagemap = pagemap

    def overlaps(self, start: int, end: int) -> bool:
        """True if there may be pages to copy between two addresses."""
        reach = REACH * PAGE_SIZE
        return next(self._mappings.between(start - reach, end + reach), None) is not None

    def runs(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        """Start and end of each run of pages to copy, clipped to the range, in order."""
        end = address + length
        if not self.overlaps(address, end):
            return
        first = address // PAGE_SIZE
        count = page_up(end) // PAGE_SIZE - first
        anonymous, shared = self._pages(first, count)
        near = [(0, count)]
        if anonymous != shared:
            before = min(first, REACH)
            _, around = self._pages(first - before, before + count + REACH)
            near = [(low - before, high - before) for low, high in neighbourhoods(around)]
        for low, high in near:
            for one, other in runs_in(anonymous, max(0, low), min(count, high)):
                yield (
                    max(address, (first + one) * PAGE_SIZE),
                    min(end, (first + other) * PAGE_SIZE),
                )

    def _pages(self, first: int, count: int) -> tuple[bytes, bytes]:
        """Two strings with a byte for each page: 1 if anonymous; 1 if anonymous and shared."""
        flags = self._pagemap.flags(first * PAGE_SIZE, count * PAGE_SIZE)
        anonymous = flags.translate(ANONYMOUS)
        shared = bytearray(flags.translate(NOT_EXCLUSIVE))
        for start, end in self._untold.between(first * PAGE_SIZE, (first + count) * PAGE_SIZE):
            own = slice(start // PAGE_SIZE - first, end // PAGE_SIZE - first)
            shared[own] = anonymous[own]
        return anonymous, bytes(shared)


class _Borders:
    """The start and end addresses of mappings, in address order."""

    def __init__(self, vmas: Sequence[Vma]) -> None:
        self._starts = [vma.start for vma in vmas]
        self._ends = [vma.end for vma in vmas]

    def between(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Start and end of the part of each mapping between two addresses."""
        index = bisect_right(self._ends, start)
        while index < len(self._starts) and self._starts[index] < end:
            yield max(start, self._starts[index]), min(end, self._ends[index])
            index += 1


def neighbourhoods(shared: bytes) -> Iterator[Run]:
    """The runs of pages within reach of a shared page, in order and disjoint."""
    first = shared.find(1)
    while first >= 0:
        last = first
        while (other := shared.rfind(1, last + 1, last + 1 + 2 * REACH)) >= 0:
            last = other
        yield first - REACH, last + 1 + REACH
        first = shared.find(1, last + 1)
