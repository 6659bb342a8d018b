"""Pages that process_vm_readv(2) would copy by reading them.

After a fork(2), parent and child share the pages of private memory until one of them writes.
process_vm_readv(2) pins what it reads (FOLL_PIN), and a page that is pinned must be the
process's own: where it may not be, the kernel makes a copy of it first (mm/gup.c,
gup_must_unshare).  So to read a child of a server with 10 GiB in this way takes 10 GiB from the
machine, for good.  /proc/PID/mem does not pin (mm/memory.c, __access_remote_vm), and is how
such pages are read.

/proc/PID/smaps tells which mappings have pages that are shared, /proc/PID/pagemap which pages
these are; it is asked for what is about to be read, and only in such mappings.  Beyond that:

- A page that KSM has merged is copied even where nobody else has it any more, and pagemap does
  not tell.  So in mappings that may be merged (madvise(2), MADV_MERGEABLE), no page counts as
  the process's own.
- Nor does pagemap tell of pages that are swapped out.  So no page counts as the process's own
  in a mapping of which some are both shared and swapped out.
- A huge page is one folio: as long as another process maps any part of it, a page that only we
  map is copied too (mm/memory.c, wp_can_reuse_anon_folio).  So what is near a shared page, as
  far as a folio reaches, counts as shared.

Not seen, and copied: a huge page of which this process maps one part alone and another process
another; a page that this process has in memory alone and another process swapped out.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.elf import page_up
from gcorefs.elfcore.vma import Vma
from gcorefs.process.pagemap import ANONYMOUS, NOT_EXCLUSIVE, Pagemap

_REACH = (2 << 20) // PAGE_SIZE - 1
"""Pages from the first to the last of the largest folio.  After mremap(2) it may begin at any
page border."""

Run = tuple[int, int]
"""First page and the page behind the last one."""


class CopyOnWrite:
    """The pages of a process that a pin would copy."""

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
        """True where there may be such pages between the two addresses."""
        reach = _REACH * PAGE_SIZE
        return next(self._mappings.between(start - reach, end + reach), None) is not None

    def runs(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        """Start and end of each run of such pages in a range, cut at its borders, in order."""
        end = address + length
        if not self.overlaps(address, end):
            return
        first = address // PAGE_SIZE
        count = page_up(end) // PAGE_SIZE - first
        anonymous, shared = self._pages(first, count)
        near = [(0, count)]
        if anonymous != shared:
            before = min(first, _REACH)
            _, around = self._pages(first - before, before + count + _REACH)
            near = [(low - before, high - before) for low, high in _neighbourhoods(around)]
        for low, high in near:
            for one, other in _runs_in(anonymous, max(0, low), min(count, high)):
                yield (
                    max(address, (first + one) * PAGE_SIZE),
                    min(end, (first + other) * PAGE_SIZE),
                )

    def _pages(self, first: int, count: int) -> tuple[bytes, bytes]:
        """A byte for each page: 1 where it is anonymous, and 1 where it is shared as well."""
        flags = self._pagemap.flags(first * PAGE_SIZE, count * PAGE_SIZE)
        anonymous = flags.translate(ANONYMOUS)
        shared = bytearray(flags.translate(NOT_EXCLUSIVE))
        for start, end in self._untold.between(first * PAGE_SIZE, (first + count) * PAGE_SIZE):
            own = slice(start // PAGE_SIZE - first, end // PAGE_SIZE - first)
            shared[own] = anonymous[own]
        return anonymous, bytes(shared)


class _Borders:
    """Of mappings in address order."""

    def __init__(self, vmas: Sequence[Vma]) -> None:
        self._starts = [vma.start for vma in vmas]
        self._ends = [vma.end for vma in vmas]

    def between(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Start and end of what each of them has between two addresses."""
        index = bisect_right(self._ends, start)
        while index < len(self._starts) and self._starts[index] < end:
            yield max(start, self._starts[index]), min(end, self._ends[index])
            index += 1


def _neighbourhoods(shared: bytes) -> Iterator[Run]:
    """What lies within reach of pages that are shared, in order and apart."""
    first = shared.find(1)
    while first >= 0:
        last = first
        while (other := shared.rfind(1, last + 1, last + 1 + 2 * _REACH)) >= 0:
            last = other
        yield first - _REACH, last + 1 + _REACH
        first = shared.find(1, last + 1)


def _runs_in(pages: bytes, low: int, high: int) -> Iterator[Run]:
    """Runs of 1 between two indexes."""
    while (first := pages.find(1, low, high)) >= 0:
        low = pages.find(0, first, high)
        if low < 0:
            low = high
        yield first, low
