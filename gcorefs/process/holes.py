"""Memory that was never populated, found without touching it.

Reading is not free for the process that is read: an untouched page of anonymous memory gets
page tables, a hole in a memfd becomes a page of zeros that stays, a huge page is taken from
those that were set aside.  And there may be terabytes of it.  So what is not populated is known
to be zeros before anything is read, and is not read.

Private anonymous memory: the page tables tell (pagemap.py).  Shared memory without a name: its
file does (shared.py).  Mappings under userfaultfd(2) are not asked about: what a missing page
of theirs holds, its handler knows.  Nor are private mappings of files: an untouched page of
these is the file's.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from gcorefs.elfcore.segments import Column
from gcorefs.elfcore.vma import HUGE_PAGES, Vma, VmFlag
from gcorefs.process.pagemap import Pagemap
from gcorefs.process.shared import Shared
from gcorefs.process.turns import LINE

Holes = tuple[Column, Column]
"""Starts and ends, on page borders, in order."""

_NONE: Holes = array("Q"), array("Q")

_NEAR = 1 << 20
"""Less is looked through in the time that a question takes."""


def find_holes(
    vmas: Sequence[Vma], sizes: Sequence[int], pagemap: Pagemap, shared: Shared
) -> list[Holes]:
    """The holes of each mapping, of which `sizes` bytes are wanted in the core."""
    found: list[Holes] = [_NONE] * len(vmas)
    for row in _rows(vmas, sizes):
        starts, ends = pagemap.runs([(vmas[index].start, vmas[index].end) for index in row])
        for index in row:
            found[index] = _between(starts, ends, vmas[index])
    for index, vma in enumerate(vmas):
        if not vma.kind.is_plain and VmFlag.MAYSHARE in vma.vm_flags and sizes[index] == vma.size:
            found[index] = shared.holes(vma)
    return found


def _rows(vmas: Sequence[Vma], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Mappings that may have holes, by index; of each row all are to be asked about at once.

    Threads have their stacks in such rows, and one question for each would be 10,000.  But to
    look through a gibibyte between two that is known to have no holes takes 3 ms.
    """
    row: list[int] = []
    between = 0
    for index, (vma, size) in enumerate(zip(LINE.paced(vmas), sizes, strict=True)):
        if (
            size > vma.anonymous + vma.swapped
            and size == vma.end - vma.start
            and _is_private_anonymous(vma)
        ):
            if between > _NEAR:
                yield row
                row = []
            row.append(index)
            between = 0
        elif row:
            between += vma.end - vma.start
    if row:
        yield row


def _is_private_anonymous(vma: Vma) -> bool:
    if vma.kind.is_plain:
        return True
    if vma.is_special or vma.vm_flags & (VmFlag.MAYSHARE | VmFlag.UFFD_MISSING):
        return False
    return not vma.has_file or (vma.kind.is_hugetlb and vma.name == HUGE_PAGES)


def _between(starts: Column, ends: Column, vma: Vma) -> Holes:
    """What of a mapping lies between populated runs."""
    first, last = bisect_right(ends, vma.start), bisect_left(starts, vma.end)
    hole_starts, hole_ends = ends[first:last], starts[first:last]
    # A run that goes across a border of the mapping leaves none there.
    if last > first and hole_ends[0] <= vma.start:
        del hole_ends[0]
    else:
        hole_starts.insert(0, vma.start)
    if last > first and hole_starts[-1] >= vma.end:
        hole_starts.pop()
    else:
        hole_ends.append(vma.end)
    return hole_starts, hole_ends
