"""Pages that a read by process_vm_readv(2) would copy.

After a fork(2), parent and child share the pages of private memory until one of them writes.
process_vm_readv(2) pins the pages that it reads (FOLL_PIN), and a pinned page must be exclusive to
the process.  If it may not be, the kernel first makes a copy of it (mm/gup.c, gup_must_unshare).
So if we read a child of a 10 GiB server in this way, the machine loses 10 GiB for good.
/proc/PID/mem does not pin (mm/memory.c, __access_remote_vm), so these pages are read through it.

/proc/PID/smaps tells which mappings have shared pages, and BPF which may have some; and
/proc/PID/pagemap tells which pages are shared.  We ask pagemap only for ranges that we are about to
read in these mappings.  Also:

- The kernel copies a page that KSM has merged even if no other process has it any more, and
  pagemap does not tell.  So no page counts as exclusive in a mapping that KSM may merge
  (madvise(2), MADV_MERGEABLE).
- pagemap does not tell whether a swapped-out page is shared.  So no page counts as exclusive in a
  mapping that has shared pages and swapped-out pages.  BPF counts neither: pagemap tells whether
  any page is swapped out, when the mapping is read for the first time.
- A huge page is one folio.  While another process maps any part of it, the kernel copies also a
  page that only this process maps (mm/memory.c, wp_can_reuse_anon_folio).  So all pages near a
  shared page, as far as a folio reaches, count as shared.

Two cases are not seen, and are copied: a huge page of which this process alone maps one part and
another process alone maps another part; a page that only this process has in memory while another
process has it swapped out.
"""

from bisect import bisect_left, bisect_right
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
        found = [vma for vma in vmas if vma.pages.may_be_copied or vma.kind.hides_sharing]
        self._mappings = _Borders(found)
        # Of each, whether pagemap does not tell which pages are shared; None: not asked yet.
        self._are_untold = [_is_untold(vma) for vma in found]
        self._pagemap = pagemap

    def overlaps(self, start: int, end: int) -> bool:
        """True if there may be pages to copy between two addresses."""
        reach = REACH * PAGE_SIZE
        return bool(self._mappings.between(start - reach, end + reach))

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
        for index in self._mappings.between(first * PAGE_SIZE, (first + count) * PAGE_SIZE):
            start, end = self._mappings[index]
            if (is_untold := self._are_untold[index]) is None:
                is_untold = self._pagemap.has_swapped_pages(start, end)
                self._are_untold[index] = is_untold
            if is_untold:
                own = slice(max(0, start // PAGE_SIZE - first), max(0, end // PAGE_SIZE - first))
                shared[own] = anonymous[own]
        return anonymous, bytes(shared)


def _is_untold(vma: Vma) -> bool | None:
    if vma.kind.is_mergeable:
        return True
    return None if vma.pages.swapped is None else vma.pages.swapped > 0


class _Borders:
    """The start and end addresses of mappings, in address order."""

    def __init__(self, vmas: Sequence[Vma]) -> None:
        self._starts = [vma.start for vma in vmas]
        self._ends = [vma.end for vma in vmas]

    def __getitem__(self, index: int) -> tuple[int, int]:
        return self._starts[index], self._ends[index]

    def between(self, start: int, end: int) -> range:
        """The mappings of which a part is between two addresses."""
        return range(bisect_right(self._ends, start), bisect_left(self._starts, end))


def neighbourhoods(shared: bytes) -> Iterator[Run]:
    """The runs of pages within reach of a shared page, in order and disjoint."""
    first = shared.find(1)
    while first >= 0:
        last = first
        while (other := shared.rfind(1, last + 1, last + 1 + 2 * REACH)) >= 0:
            last = other
        yield first - REACH, last + 1 + REACH
        first = shared.find(1, last + 1)
